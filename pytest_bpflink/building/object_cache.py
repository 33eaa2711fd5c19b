"""Objects that are kept between runs, and the errors of sources that do not compile.

Each has the files that it was made of, with their digests, and counts only while these are the
same. Knows nothing of how an object is made.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from pytest_bpflink.building.unused import note_use
from pytest_bpflink.vm.cache import cache_part, is_trusted, recall, usable, writable
from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable


class Kept(NamedTuple):
    """An object file, and the paths of what it was made of."""

    object: Path
    parts: list[Path]


def entry(*key: str) -> Path:
    """Return the directory for what is made by this key, which includes no content of files."""
    return writable(usable(cache_part("objects") / digest(*key)), unless=look_up)


def look_up(entry: Path) -> Kept | None:
    """Find an object in the cache; None if it, or what it was made of, has changed since."""
    note_use(entry)
    kept = recall(entry / "parts.json")
    contents = kept.get("parts")
    if _are_unchanged(contents):
        built = _place(entry, contents)
        if is_trusted(built) and content(built) == kept.get("object"):
            return Kept(built, [Path(name) for name in contents])
    return None


def keep(entry: Path, image: bytes, parts: Iterable[Path]) -> Kept:
    """Keep an object that was made of PARTS, of which the first one gives it its name.

    Where the cache can't be written (a guest, a full disk, a read-only cache) the object goes into
    a temporary directory.
    """
    contents = _contents_of(parts)
    built = _place(entry, contents)
    try:
        write_whole(built, image)
        kept = {"parts": contents, "object": digest(image)}
        write_whole(entry / "parts.json", json.dumps(kept).encode())
    except OSError:
        built = _place(_unwritable_cache().path, contents)
        write_whole(built, image)
    return Kept(built, [Path(name) for name in contents])


def failure(entry: Path) -> str | None:
    """Return clang's message on the same files, if clang refused them before."""
    kept = recall(entry / "failure.json")
    log = kept.get("log")
    return log if isinstance(log, str) and _are_unchanged(kept.get("parts")) else None


def keep_failure(entry: Path, message: str, parts: Iterable[Path]) -> None:
    """Keep clang's message on these files, as far as the cache can be written."""
    kept = {"parts": _contents_of(parts), "log": message}
    with contextlib.suppress(OSError):
        write_whole(entry / "failure.json", json.dumps(kept).encode())


def signature(parts: Iterable[Path]) -> list[tuple[int, int, int] | None]:
    """Return numbers that change with each file; None for a file that is missing."""
    return [_file_signature(each) for each in parts]


def content(part: Path) -> str:
    """Return the digest of a file, which is read again if it has changed; empty without a file."""
    state = _file_signature(part)
    known = _contents.get(part)
    if known is None or known[0] != state:
        known = _contents[part] = state, _digest_of_file(part)
    return known[1]


def digest(*parts: str | bytes) -> str:
    """Return a name for these texts, in this order."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:32]


# By file: its signature, and its digest at that time. Most sources include the same headers.
_contents: dict[Path, tuple[object, str]] = {}


def _place(entry: Path, contents: dict[str, str]) -> Path:
    # Users see the file's name: libbpf puts it before the names of global variables' maps.
    source = Path(next(iter(contents)))
    return entry / digest(*contents, *contents.values()) / source.with_suffix(".o").name


@functools.cache
def _unwritable_cache() -> Scratch:
    scratch = Scratch()
    atexit.register(scratch.close)
    return scratch


def _contents_of(parts: Iterable[Path]) -> dict[str, str]:
    return {str(part): content(part) for part in parts}


def _are_unchanged(contents: object) -> TypeGuard[dict[str, str]]:
    """Whether these are files with their digests, as from `_contents_of`, and still right."""
    if not isinstance(contents, dict) or not contents:
        return False
    with contextlib.suppress(OSError, ValueError):  # ValueError: a path with a zero byte
        return all(content(Path(part)) == known for part, known in contents.items())
    return False


def _file_signature(part: Path) -> tuple[int, int, int] | None:
    try:
        status = part.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _digest_of_file(part: Path) -> str:
    try:
        return digest(part.read_bytes())
    except IsADirectoryError:
        return "directory"
    except OSError:
        return ""
