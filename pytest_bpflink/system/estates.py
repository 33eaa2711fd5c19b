"""Which paths belong to this process's tests, and which to another session's tests.

Each process that runs tests has a directory below `ROOT`, its estate, and makes its cgroups in a
cgroup named after the estate. `ledger.estate` makes and removes estates.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from pytest_bpflink.vm.owner_lock import own_directories
from pytest_bpflink.vm.trust import distrust

ROOT = Path(os.path.realpath(os.environ.get("BPFLINK_RUN_DIRECTORY", "/run")), "pytest-bpflink")
"""The directory of all estates, which only its user may enter.

It is in `/run`, or in the directory that `BPFLINK_RUN_DIRECTORY` names, where other things may lie.
"""

_NAME = re.compile(r"\d+-[0-9a-f]{8}")
_CGROUP_PREFIX = "pytest-bpflink-"


def refusal() -> str:
    """Return why `ROOT` may not be used; empty if only this user may have written what is in it.

    Raises FileNotFoundError.
    """
    about = os.lstat(ROOT)
    if not stat.S_ISDIR(about.st_mode):
        return f"{ROOT} is no directory"
    if about.st_uid != os.geteuid():
        return f"{ROOT} belongs to another user"
    if about.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return f"other users may enter {ROOT}"
    return distrust(ROOT)


def new_name() -> str:
    """Return a name for an estate of this process."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def is_name(name: str) -> bool:
    """Whether an estate may have this name."""
    return _NAME.fullmatch(name) is not None


def owners() -> set[int]:
    """Return the pids of the processes that have estates, of which some may be dead."""
    try:
        names = os.listdir(ROOT)
    except FileNotFoundError:
        return set()
    return {int(name.partition("-")[0]) for name in names if is_name(name)}


def own() -> set[Path]:
    """Return the estates of this process: one as a rule, or none."""
    return {directory for directory in own_directories() if directory.parent == ROOT}


def cgroup_name(estate: Path) -> str:
    """Return the name of the cgroup in which the owner of an estate makes its cgroups."""
    return f"{_CGROUP_PREFIX}{estate.name}"


def is_of_another_session(path: Path) -> bool:
    """Whether a path is in the estate of another process."""
    return path.is_relative_to(ROOT) and not any(map(path.is_relative_to, own()))


def is_cgroup_of_another_session(path: Path) -> bool:
    """Whether a cgroup is another process's cgroup for its tests, or is below one."""
    own_names = {cgroup_name(estate) for estate in own()}
    return any(part.startswith(_CGROUP_PREFIX) and part not in own_names for part in path.parts)
