"""Selftests on kernels that lack BTF, a JIT, the BPF LSM or modules: skips with reasons."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT
from tests.support.long import long
from tests.support.sessions import run_session
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path

SELFTESTS = ROOT / "selftests"

# In the guest, before any test.
PLUGIN = """
import subprocess
from pathlib import Path

def pytest_configure(config):
    if hasattr(config, "workerinput"):
        WHAT
"""
HIDE_BTF = 'subprocess.run(["mount", "-t", "tmpfs", "none", "/sys/kernel/btf"], check=True)'
LOAD_NO_MODULES = 'Path("/proc/sys/kernel/modules_disabled").write_text("1")'


def run(directory: Path, what: str, *arguments: str | Path) -> tuple[str, set[str]]:
    """Run selftests in a guest; return the last line, and the reasons of skips."""
    (directory / "lacking.py").write_text(PLUGIN.replace("WHAT", what))
    options = ("-p", "lacking", "-p", "no:cacheprovider", "-rs", *arguments)
    done = run_session(directory, *options, PYTHONPATH=str(directory), BPFLINK_CACHE=str(CACHE))
    lines = done.outlines
    found = [re.match(r"SKIPPED \[\d+\] [^ ]+ (.*)", line) for line in lines]
    return lines[-1], {each[1] for each in found if each}


def test_without_btf(tmp_path: Path) -> None:
    pinning = SELFTESTS / "test_link_pinning.py"
    access = SELFTESTS / "conformance/test_conformance_access.py"
    chosen = ("-k", "pin or tp_btf or fentry- or iter_task or raw_tp")

    last, reasons = run(tmp_path, HIDE_BTF, pinning, access, *chosen, "--kernel", "7.2")

    none = "this kernel has no BTF (CONFIG_DEBUG_INFO_BTF): there is no /sys/kernel/btf/vmlinux"
    lacking = ("attach:trace_raw_tp", "tp_btf", "fentry", "iter_task")
    assert reasons == {f"{each}: {none}" for each in lacking}
    assert re.search(r"= 6 passed, 10 skipped in", last)


@pytest.mark.parametrize(
    ("kernel", "modules"),
    [
        pytest.param("5.10", "lockdown,capability,apparmor", marks=long),
        ("7.2", "lockdown,capability,apparmor,ima,evm"),
    ],
)
def test_without_jit_lsm_and_modules(tmp_path: Path, kernel: str, modules: str) -> None:
    rows = SELFTESTS / "conformance"
    tests = (rows / "test_conformance_access.py", rows / "test_conformance_which.py")
    chosen = ("-k", "[lsm- or freplace or xdp-dummy or xdp-generic or raw_tp or rows_are_there")
    without = ("--kernel-append", "lsm=apparmor sysctl.net.core.bpf_jit_enable=0")

    last, reasons = run(tmp_path, LOAD_NO_MODULES, *tests, *chosen, *without, "--kernel", kernel)

    assert reasons == {
        f"lsm: the BPF LSM is off: this kernel's security modules are {modules} (lsm=)",
        "freplace: this kernel's JIT is off (net.core.bpf_jit_enable is 0)",
        "xdp-dummy: CONFIG_DUMMY is a module of this kernel, and dummy can't be loaded",
        "xdp-generic: CONFIG_VETH is a module of this kernel, and veth can't be loaded",
    }
    assert re.search(r"= 3 passed, 8 skipped in", last)


@pytest.mark.parametrize(
    ("kernel", "outcomes"),
    [pytest.param("5.10", "17 skipped", marks=long), ("7.2", "2 passed, 15 skipped")],
)
def test_devices_without_modules(tmp_path: Path, kernel: str, outcomes: str) -> None:
    """Tests outside the table of link types skip as its rows do."""
    windows = SELFTESTS / "conformance/test_conformance_windows.py"
    files = (SELFTESTS / "test_xdp_link.py", SELFTESTS / "test_link_order.py", windows)
    chosen = ("-k", "xdp_link or device_goes or module_unloaded or test_after_a_link[tcx")
    options = ("--bpf-libbpf", "newest", "--kernel", kernel)

    last, reasons = run(tmp_path, LOAD_NO_MODULES, *files, *chosen, *options)

    assert {each for each in reasons if "came with" not in each} == {
        "veth: CONFIG_VETH is a module of this kernel, and veth can't be loaded",
        "dummy: CONFIG_DUMMY is a module of this kernel, and dummy can't be loaded",
    }
    assert re.search(rf"= {outcomes} in", last)
