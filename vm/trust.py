"""Whether another user may have written a file that this process is about to use.

Knows owners, modes and symbolic links. `cache` asks for each of its parts.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

OWNER = "BPFLINK_OWNER"
"""The variable that names the host's user in a guest, where this process is root."""

# As many links in one path as Linux follows (path_resolution(7)).
_MOST_LINKS = 40

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ACL = "system.posix_acl_access"


def distrust(path: Path) -> str:
    """Return why another user may have written PATH; empty if only this user and root may have.

    PATH and its parents, also those of links' targets, must belong to this user or to root, and
    nobody else may write to them. A parent may have the sticky bit instead, as /tmp. Of a PATH that
    does not exist only the parents count.
    """
    return _distrust(Path(os.path.abspath(path)), _MOST_LINKS)


def distrust_tree(path: Path) -> str:
    """Return `distrust` of PATH and everything below; the targets of links below do not count."""
    return distrust(path) or _distrust_below(os.path.abspath(path), _owners())


def withdraw(tree: Path) -> None:
    """Take the right to write anything in TREE away from all users but the owner."""
    for directory, _, names in os.walk(tree):
        for path in (directory, *(os.path.join(directory, name) for name in names)):
            mode = os.lstat(path).st_mode
            if mode & _OTHERS_WRITE and not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) & ~_OTHERS_WRITE)


def _distrust(path: Path, links: int) -> str:
    for part in (*reversed(path.parents), path):
        try:
            status = os.lstat(part)
            fault = _fault(part, status, is_parent=part != path)
            if fault:
                return fault
            if not stat.S_ISLNK(status.st_mode):
                continue
            target = os.readlink(part)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            return f"{part} can't be looked at ({error.strerror})"
        if not links:
            return f"{part} is one of too many symbolic links"
        # No directory before this link is a link, so normpath may remove "..".
        followed = os.path.normpath(part.parent / target / path.relative_to(part))
        return _distrust(Path(followed), links - 1)
    return ""


def _distrust_below(directory: str, owners: set[int]) -> str:
    """Return what `_fault` finds below a directory; most files have none, and are passed over."""
    below = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if status.st_uid not in owners or status.st_mode & _OTHERS_WRITE:
                    fault = _fault(entry.path, status, is_parent=False)
                    if fault:
                        return fault
                if stat.S_ISDIR(status.st_mode):
                    below.append(entry.path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"{directory} can't be looked at ({error.strerror})"
    faults = (_distrust_below(each, owners) for each in below)
    return next(filter(None, faults), "")


def _fault(path: str | Path, status: os.stat_result, *, is_parent: bool) -> str:
    if status.st_uid not in _owners():
        return f"{path} belongs to {_name(status.st_uid)}"
    mode = status.st_mode
    is_sticky = is_parent and mode & stat.S_ISVTX
    if stat.S_ISLNK(mode) or not mode & _OTHERS_WRITE or is_sticky:
        return ""
    if not mode & stat.S_IWOTH and _is_own_group(path, status):
        return ""
    return f"other users may write to {path}"


def _owners() -> set[int]:
    named = os.environ.get(OWNER, "")
    return {0, os.geteuid(), *([int(named)] if named.isdecimal() else ())}


def _is_own_group(path: str | Path, status: os.stat_result) -> bool:
    """Whether the group of a file is its owner's own, as distributions make one for each user."""
    try:
        user, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
        is_alone = user.pw_gid == group.gr_gid and not {*group.gr_mem} - {user.pw_name}
        # With an access control list these bits of the mode speak of others than the group.
        return is_alone and user.pw_name == group.gr_name and _ACL not in os.listxattr(path)
    except (KeyError, OSError):
        return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
