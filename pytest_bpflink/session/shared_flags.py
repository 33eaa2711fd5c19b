"""The flags that all BPF programs of a session are compiled with, from the configuration."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from pytest_bpflink.building.recipe import CFLAGS, absolute
from pytest_bpflink.session.options import CFLAGS_OPTION

if TYPE_CHECKING:
    import pytest


def use(config: pytest.Config) -> None:
    """Have this process and its children compile with the flags of a session, until it ends."""
    start = config.inipath.parent if config.inipath else config.rootpath
    before = os.environ.get(CFLAGS)
    os.environ[CFLAGS] = shlex.join(absolute(config.getini(CFLAGS_OPTION), start))

    def restore() -> None:
        if before is None:
            del os.environ[CFLAGS]
        else:
            os.environ[CFLAGS] = before

    config.add_cleanup(restore)
