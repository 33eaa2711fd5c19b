"""pytest's cache, which a run as root leaves to the owner of the project.

The owner's later runs could not write there, and pytest would warn of that in each.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def give_back(config: pytest.Config) -> None:
    """Give the files that root has written into pytest's cache to the owner of the project.

    This does nothing where root owns the project.
    """
    if not config.pluginmanager.has_plugin("cacheprovider"):
        return
    owner = os.stat(config.rootpath)
    named = os.path.expandvars(os.path.expanduser(config.getini("cache_dir")))
    directory = config.rootpath / named
    if owner.st_uid and directory.is_relative_to(config.rootpath):
        # OSError: there is no cache, or the file system is read-only.
        with contextlib.suppress(OSError):
            for _, _, names, descriptor in os.fwalk(directory):
                _give(descriptor, owner)
                for name in names:
                    _give_file(name, descriptor, owner)


def _give_file(name: str, directory: int, owner: os.stat_result) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # a symbolic link, or gone
        descriptor = os.open(name, flags, dir_fd=directory)
        try:
            _give(descriptor, owner)
        finally:
            os.close(descriptor)


def _give(descriptor: int, owner: os.stat_result) -> None:
    """Change the owner of a file of root's that is in this directory only.

    The owner of the project may have made a hard link to any file of root's there.
    """
    found = os.fstat(descriptor)
    is_only_here = stat.S_ISDIR(found.st_mode) or (
        stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    )
    if not found.st_uid and is_only_here:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
