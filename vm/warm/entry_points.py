"""What the distributions that are installed for a Python offer: their entry points, as text.

Knows how they lie in site-packages. A guest is told, for each file of the host's costs it a
millisecond, and pytest looks through all of them twice.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_FILE = "entry_points.txt"


def read(directories: Iterable[str]) -> dict[str, str | None]:
    """Return what each distribution in these directories offers, by path; None for nothing."""
    found = {}
    for directory in directories:
        with suppress(OSError):  # a zip file, or not there
            for name in os.listdir(directory):
                if name.endswith((".dist-info", ".egg-info")):
                    path = os.path.join(directory, name)
                    found[path] = _text_of(path)
    return found


def _text_of(distribution: str) -> str | None:
    try:
        with open(os.path.join(distribution, _FILE), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None
