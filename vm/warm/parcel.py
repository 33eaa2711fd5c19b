"""The parcel for a packed guest: what changes from run to run, above all the project under test.

Knows which trees of the host these are, and how much they may hold. `vm.image.packed_root` has what
is in the guest before; `guest/agent.py` unpacks a parcel.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.image import trees
from pytest_bpflink.vm.image.cpio import Archive
from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# In bytes. Larger files are data as a rule; a guest holds all files in its memory.
_LARGEST_FILE = 8 << 20
_MOST_BYTES = 64 << 20

_MOST_FILES = 20_000

_MOST_NAMED = 5

_FASTEST = 1  # of zlib's levels


@dataclass(frozen=True)
class Contents:
    """What is sent: directories with all that is below them, files, and directories alone.

    `made` are further files with their content. `caches` are directories in which Python or pytest
    looks for the compiled code of a directory by its path, as with PYTHONPYCACHEPREFIX.
    """

    trees: tuple[Path, ...]
    files: tuple[Path, ...] = ()
    empty: tuple[Path, ...] = ()
    made: Mapping[Path, bytes] = field(default_factory=dict)
    caches: tuple[str, ...] = ()


def outside(path: Iterable[str], packed: Iterable[str]) -> list[Path]:
    """Return the trees of the host that Python imports from and that are not PACKED.

    PATH is its sys.path. They are its entries, and the projects that pip has installed to be
    edited, which need not be entries (PEP 660): a distribution names its project (PEP 610).
    """
    packed = [*packed]
    found = [Path(entry) for entry in path if entry not in packed and os.path.isdir(entry)]
    for directory in map(Path, packed):
        for record in directory.glob("*.dist-info/direct_url.json"):
            source = _edited(record)
            if source and source.is_dir():
                found.append(source)
    return found


def compose(contents: Contents, *, say: Callable[[str], None]) -> bytes:
    """Return a compressed archive; SAY is called with a sentence if large files are not in it.

    Raises MachineError if there is too much to send.
    """
    given = list(_files(contents))
    large = [file for file in given if _is_too_large(file)]
    files = [file for file in given if file not in large]
    compiled = trees.compiled(files, lambda place: _places(place, contents.caches))
    written = io.BytesIO()
    with Archive(written) as archive:
        for path in (*contents.empty, *files, *compiled, *contents.files):
            archive.add_as_it_is(path)
        for path, content in contents.made.items():
            archive.add(path, content)
    if large:
        names = ", ".join(map(str, large[:_MOST_NAMED]))
        more = f" and {len(large) - _MOST_NAMED} more" if len(large) > _MOST_NAMED else ""
        size = f"larger than {_LARGEST_FILE >> 20} MiB"
        say(f"guests without 9p, which get copies of files, lack what is {size}: {names}{more}")
    return zlib.compress(written.getvalue(), _FASTEST)


def _files(contents: Contents) -> Iterator[Path]:
    for tree in _outermost(contents.trees):
        sizes: Counter[Path] = Counter()
        numbers: Counter[Path] = Counter()
        for file in trees.files(tree, builds=trees.BUILDS):
            status = os.lstat(file)
            if not (os.access(file, os.R_OK) or file.is_symlink()):
                continue
            top = tree.joinpath(*file.relative_to(tree).parts[:1])
            numbers[top] += 1
            if status.st_size <= _LARGEST_FILE:
                sizes[top] += status.st_size
            if numbers.total() > _MOST_FILES:
                raise _too_much(tree, f"{_MOST_FILES:,} files", numbers)
            if sizes.total() > _MOST_BYTES:
                raise _too_much(tree, f"{_MOST_BYTES >> 20} MiB", sizes)
            yield file


def _too_much(tree: Path, most: str, found: Counter[Path]) -> MachineError:
    ((largest, _),) = found.most_common(1)
    return MachineError(
        f"{tree} has more than {most}, most of them in {largest}, and guests of kernels without 9p"
        " get a copy of it: take a smaller rootdir (--rootdir, or a pytest.ini beside the tests;"
        " for bpflink vm, the working directory), or install what is only imported from there"
    )


def _outermost(directories: Iterable[Path]) -> list[Path]:
    """Return directories without those that are below others."""
    kept: list[Path] = []
    for directory in sorted(set(directories), key=lambda each: len(each.parts)):
        if not any(directory.is_relative_to(above) for above in kept):
            kept.append(directory)
    return kept


def _is_too_large(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > _LARGEST_FILE


def _places(directory: Path, caches: Iterable[str]) -> list[Path]:
    return [directory / "__pycache__", *(Path(f"{cache}{directory}") for cache in caches)]


def _edited(record: Path) -> Path | None:
    """Return the directory of an editable install; None for another distribution."""
    try:
        described: Mapping[str, object] = json.loads(record.read_text())
    except (OSError, ValueError):
        return None
    match described:
        case {"url": str(url), "dir_info": {"editable": True}} if url.startswith("file://"):
            from urllib.parse import unquote

            return Path(unquote(url.removeprefix("file://")))
    return None
