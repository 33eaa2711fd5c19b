"""What the host's clang made of BPF programs, for guests that have no clang.

The host describes it as JSON, which such a guest finds in the file that `VARIABLE` names.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_bpflink.building.recipe import Made

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE: Final = "BPFLINK_OBJECTS"


def describe(made: Mapping[Path, Made]) -> bytes:
    """Return the text for a guest: objects and messages by source."""
    described = {
        str(source): {
            "digest": _digest(source),
            "object": result.object and str(result.object),
            "log": result.log,
            "hint": result.hint,
        }
        for source, result in made.items()
    }
    return json.dumps(described).encode()


def find(source: Path) -> Made | None:
    """Return what the host made of a source; None if it made nothing of it as it is now."""
    index = os.environ.get(VARIABLE)
    known = _read(index).get(str(source)) if index else None
    if known is None or known["digest"] != _digest(source):
        return None
    return Made(known["object"] and Path(known["object"]), known["log"], known["hint"])


@functools.cache
def _read(index: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(index).read_text())
    return found


def _digest(source: Path) -> str:
    return hashlib.sha256(source.read_bytes()).hexdigest()
