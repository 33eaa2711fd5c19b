"""Starts what watches the tests of a session: leaks, the kernel's log, prints, its own process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_bpflink.errors import BpfError
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.session import bpf_trace, process_watch
from pytest_bpflink.session.kernel_log_check import DmesgCheck
from pytest_bpflink.session.leak_check import LeakCheck

if TYPE_CHECKING:
    import pytest


def start(config: pytest.Config) -> None:
    """Watch all tests of this process, as its options say.

    A check that this process may not make is left out; pytest's header says so.
    """
    if any(map(config.pluginmanager.hasplugin, ("bpflink-leaks", "bpflink-dmesg"))):
        return  # pytest has collected before
    if not config.pluginmanager.hasplugin(process_watch.NAME):
        config.pluginmanager.register(process_watch.ProcessWatch(config), process_watch.NAME)
    with contextlib.suppress(BpfError):
        if not missing_privileges():
            bpf_trace.of(config)
            if config.option.bpf_leaks != "off":
                config.pluginmanager.register(LeakCheck(config), "bpflink-leaks")
    if config.option.bpf_dmesg != "off":
        with contextlib.suppress(OSError):
            config.pluginmanager.register(DmesgCheck(config), "bpflink-dmesg")
