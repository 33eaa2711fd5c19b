"""Sources that tests have as text: each is a file of the cache, and the text decides its path."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from pytest_bpflink.building.object_cache import digest
from pytest_bpflink.building.unused import note_use
from pytest_bpflink.vm.cache import cache_part, usable, writable
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

_PART = "sources"
_ENDING = ".bpf.c"


def written(text: str, *, name: str = "inline") -> Path:
    """Return a file with this text, `NAME.bpf.c`; the text may be indented as the test is.

    The same text has the same file, so that it is compiled once. Raises OSError.
    """
    source = textwrap.dedent(text).lstrip("\n")

    def has_it(directory: Path) -> bool:
        try:
            return (directory / f"{name}{_ENDING}").read_text() == source
        except (OSError, ValueError):
            return False

    kept = usable(cache_part(_PART) / digest(name, source))
    file = writable(kept, unless=has_it) / f"{name}{_ENDING}"
    if not has_it(file.parent):
        write_whole(file, source.encode())
    note_use(file.parent)
    return file


def is_one(path: Path) -> bool:
    """Whether a path was returned by `written`."""
    if len(path.parent.name) != len(digest()) or not path.name.endswith(_ENDING):
        return False
    try:
        return digest(path.name.removesuffix(_ENDING), path.read_text()) == path.parent.name
    except (OSError, ValueError):
        return False
