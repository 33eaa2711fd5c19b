"""Which sessions are watched, for what their tests leave behind and for what the kernel logs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from pytest_bpflink.errors import BpfError
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.session.kernel_log_check import DmesgCheck
from pytest_bpflink.session.leak_check import LeakCheck

if TYPE_CHECKING:
    import pytest


def start(config: pytest.Config) -> None:
    """Watch all tests of this process, as its options say, and as far as it may.

    What it may not, the head of the report says.
    """
    if any(map(config.pluginmanager.hasplugin, ("bpflink-leaks", "bpflink-dmesg"))):
        return  # collected once more
    if config.option.bpf_leaks != "off":
        with contextlib.suppress(BpfError):
            if not missing_privileges():
                config.pluginmanager.register(LeakCheck(config), "bpflink-leaks")
    if config.option.bpf_dmesg != "off":
        with contextlib.suppress(OSError):
            config.pluginmanager.register(DmesgCheck(config), "bpflink-dmesg")
