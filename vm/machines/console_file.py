"""Opens the file for a guest's console, which may be in a directory that other users can write to.

There another user may have made a link with the file's name: to follow it as root would write the
console into any file.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# As many links in one path as Linux follows (path_resolution(7)).
_MOST_LINKS = 40

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def appending(path: Path, *, empty: bool = False) -> Iterator[int]:
    """Yield a descriptor that appends to PATH, which is made, or emptied if EMPTY is true.

    Raises OSError: ELOOP if PATH is a symbolic link, has other hard links, or is below another
    user's link in a directory where others may make links.
    """
    refuse_planted_links(path.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        # A FIFO that nobody reads is ENXIO.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _refusal("a symbolic link is not followed", path) from None
    try:
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            if found.st_nlink > 1:
                raise _refusal("the file has another hard link", path)
            if empty:
                os.ftruncate(descriptor, 0)
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_planted_links(directory: Path) -> None:
    """Raise OSError if the path leads over a link as fs.protected_symlinks means (sysctl(5))."""
    path = Path(os.path.abspath(directory))
    for _ in range(_MOST_LINKS):
        link = next((part for part in (*reversed(path.parents), path) if part.is_symlink()), None)
        if link is None:
            return
        made_by, parent = os.lstat(link).st_uid, os.stat(link.parent)
        if parent.st_mode & _OTHERS_WRITE and made_by not in {os.geteuid(), parent.st_uid}:
            raise _refusal("another user may have made this symbolic link", link)
        # No directory before this link is a link, so normpath may remove "..".
        path = Path(os.path.normpath(link.parent / os.readlink(link) / path.relative_to(link)))


def _refusal(why: str, path: Path) -> OSError:
    return OSError(errno.ELOOP, why, str(path))
