"""The files below a directory that a packed guest gets copies of, and their compiled code.

Knows what no test needs: caches of tools, virtual environments, and what builds made but objects.
`packed_root` and `warm.parcel` choose the directories.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

#: Directories that builds write to; tests may load the objects in them.
BUILDS = frozenset({"_build", "build", "dist", "target"})

_SKIPPED = frozenset({"CVS", "__pycache__", "node_modules"})

_OBJECTS = (".o", ".so")

# Libraries for linking, programs for Windows, packages that are not installed.
_UNUSED = (".a", ".exe", ".whl")

# The magic number, flags, and the source's time and size (PEP 552; pytest's own are the same).
_HEADER = 16


def files(
    tree: Path, *, skipped: Collection[str] = (), builds: Collection[str] = ()
) -> Iterator[Path]:
    """Yield the files and links below a directory.

    Hidden directories are passed over, and those in TREE itself that SKIPPED names. Of a directory
    with a name in BUILDS that is no package, only objects are yielded. A directory that can't be
    read is passed over.
    """
    built: set[str] = set()
    for parent, below, names in os.walk(tree):
        here = Path(parent)
        links = [name for name in below if os.path.islink(f"{parent}/{name}")]
        below[:] = sorted(
            name
            for name in below
            if name not in links
            and (here != tree or name not in skipped)
            and _is_entered(here / name)
        )
        is_build = parent in built
        built |= {
            f"{parent}/{name}" for name in below if is_build or _is_build(here / name, builds)
        }
        for name in sorted([*names, *links]):
            if not name.endswith(_UNUSED) and (not is_build or name.endswith(_OBJECTS)):
                yield here / name


def compiled(sources: Iterable[Path], places: Callable[[Path], Iterable[Path]]) -> Iterator[Path]:
    """Yield the .pyc files that this Python takes for SOURCES, pytest's rewritten ones too.

    PLACES returns the directories to look in for the sources of a directory. Time and size of the
    source are compared, as Python and pytest do.
    """
    by_directory: dict[Path, dict[str, Path]] = defaultdict(dict)
    for source in sources:
        if source.suffix == ".py":
            by_directory[source.parent][source.stem] = source
    for directory, by_stem in by_directory.items():
        for place in places(directory):
            with suppress(OSError):
                for name in sorted(os.listdir(place)):
                    stem, tag, _ = name.partition(f".{sys.implementation.cache_tag}")
                    found = place / name
                    if tag and stem in by_stem and _is_of(found, by_stem[stem]):
                        yield found


def _is_of(code: Path, source: Path) -> bool:
    status = source.stat()
    numbers = (0, int(status.st_mtime), status.st_size)
    expected = b"".join((number & 0xFFFFFFFF).to_bytes(4, "little") for number in numbers)
    with code.open("rb") as file:
        return file.read(_HEADER)[4:] == expected


def _is_entered(directory: Path) -> bool:
    name = directory.name
    return not (name.startswith(".") or name in _SKIPPED or (directory / "pyvenv.cfg").exists())


def _is_build(directory: Path, builds: Collection[str]) -> bool:
    return directory.name in builds and not (directory / "__init__.py").exists()
