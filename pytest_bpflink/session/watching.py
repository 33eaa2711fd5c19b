"""Starts the checks of a session: of leaks, of the kernel's log, and of its own process."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from pytest_bpflink.errors import BpfError
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.session.kernel_log_check import DmesgCheck
from pytest_bpflink.session.leak_check import LeakCheck
from pytest_bpflink.session.process_watch import ProcessWatch

if TYPE_CHECKING:
    import pytest


def start(config: pytest.Config) -> None:
    """Watch all tests of this process, as its options say.

    A check that this process may not make is left out; pytest's header says so.
    """
    if config.pluginmanager.hasplugin("bpflink-process"):
        return  # pytest has collected before
    process = ProcessWatch(config, without_root=partial(_go_on_without_root, config))
    config.pluginmanager.register(process, "bpflink-process")
    if config.option.bpf_leaks != "off":
        with contextlib.suppress(BpfError):
            if not missing_privileges():
                config.pluginmanager.register(LeakCheck(config), "bpflink-leaks")
    if config.option.bpf_dmesg != "off":
        with contextlib.suppress(OSError):
            config.pluginmanager.register(DmesgCheck(config), "bpflink-dmesg")


def _go_on_without_root(config: pytest.Config, nodeid: str) -> None:
    """Look for no more leaks: only root may enumerate objects.

    Says so at once, since pytest (9.2) writes no summary if it may not return to its directory.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(
            f"bpflink: {nodeid} dropped root for good, so leaks are not looked for",
            yellow=True,
        )
    leaks = config.pluginmanager.unregister(name="bpflink-leaks")
    if leaks is not None:
        leaks.pytest_unconfigure()
