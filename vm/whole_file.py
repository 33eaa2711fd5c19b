"""Writes files of which readers see the old content or the new, and never a part.

Only the owner can write to files and directories that are made here, whatever the umask is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def beside(file: Path) -> Path:
    """Return a path in FILE's directory that no other writer uses."""
    return file.with_name(f".{file.name}.{os.getpid()}-{os.urandom(2).hex()}")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Yield a path beside FILE; the file that is written there replaces FILE after the block.

    If the block raises an exception, FILE stays, and the new file is removed.
    """
    new = beside(file)
    try:
        yield new
        new.chmod(stat.S_IMODE(new.stat().st_mode) & ~0o022)
        new.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def write_whole(file: Path, content: bytes) -> None:
    """Write FILE, and make its directory. Raises OSError; an older FILE then stays as it is."""
    make_directory(file.parent)
    with replacing(file) as new:
        new.write_bytes(content)


def make_directory(directory: Path, *, mode: int = 0o755) -> None:
    """Make DIRECTORY with this mode, and its parents, unless they exist. Raises OSError."""
    try:
        directory.mkdir(mode=mode, exist_ok=True)
    except FileNotFoundError:
        make_directory(directory.parent)
        directory.mkdir(mode=mode, exist_ok=True)
