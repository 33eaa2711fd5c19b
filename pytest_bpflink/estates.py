"""Which paths belong to this process's tests, and which to those of another session.

Each process that tests has a directory below `ROOT`, its estate, and makes its cgroups in one that
is named for it. `leftovers` makes and removes estates.
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(os.environ.get("BPFLINK_RUN_DIRECTORY", "/run/pytest-bpflink"))
"""Above the estates of all processes; `BPFLINK_RUN_DIRECTORY` names another place."""

_CGROUP_PREFIX = "pytest-bpflink-"

_own: set[Path] = set()


def add_own(estate: Path) -> None:
    """Remember that this process has made an estate."""
    _own.add(estate)


def discard_own(estate: Path) -> None:
    """Forget an estate that this process has removed."""
    _own.discard(estate)


def own() -> set[Path]:
    """Return the estates of this process: one as a rule, or none."""
    return set(_own)


def cgroup_name(estate: Path) -> str:
    """Return the name of the cgroup in which the owner of an estate makes its cgroups."""
    return f"{_CGROUP_PREFIX}{estate.name}"


def is_of_another_session(path: Path) -> bool:
    """Whether a path is in the estate of another process."""
    return path.is_relative_to(ROOT) and not any(path.is_relative_to(own) for own in _own)


def is_cgroup_of_another_session(path: Path) -> bool:
    """Whether a cgroup is one that another process made for its tests, or below it."""
    own_names = {cgroup_name(estate) for estate in _own}
    return any(part.startswith(_CGROUP_PREFIX) and part not in own_names for part in path.parts)
