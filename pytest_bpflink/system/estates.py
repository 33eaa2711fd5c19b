"""Which paths belong to this process's tests, and which to another session's tests.

Each process that runs tests has a directory below `ROOT`, its estate, and makes its cgroups in a
cgroup named after the estate. `ledger.estate` makes and removes estates.
"""

from __future__ import annotations

import os
from pathlib import Path

from pytest_bpflink.vm.owner_lock import own_directories

ROOT = Path(os.environ.get("BPFLINK_RUN_DIRECTORY", "/run/pytest-bpflink"))
"""The directory of all estates; `BPFLINK_RUN_DIRECTORY` names another one."""

_CGROUP_PREFIX = "pytest-bpflink-"


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
