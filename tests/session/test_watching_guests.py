"""Leaks and splats in real guests, where nothing else makes objects, and kernels do warn."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

from tests.support import ROOT
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    import pytest

OBJECT = ROOT / "selftests/progs/cgroup_egress.bpf.c"

TESTS = """
import os, subprocess
from pathlib import Path
import pytest
from pytest_bpflink import Object

@pytest.fixture
def kept(cgroup_factory):
    return cgroup_factory()

def warn():
    # A bug of pktgen's: it takes a device whose name is one of its own files.
    subprocess.run(["modprobe", "pktgen"], check=True)
    subprocess.run(["ip", "link", "add", "pgctrl", "up", "type", "dummy"], check=True)
    with pytest.raises(OSError):
        os.write(os.open("/proc/net/pktgen/kpktgend_0", os.O_WRONLY), b"add_device pgctrl\\n")

def test_before(kept): pass

def test_warns(): warn()

def test_between(): pass

@pytest.mark.allow_dmesg("already registered")
def test_may_warn():
    # In a guest of its own, since the one that warned is tainted.
    warn()

def test_writes_itself():
    with open("/dev/kmsg", "w") as log:
        print("WARNING: CPU: 0 PID: 1 at the/test:1", file=log)

def test_child_pins_and_is_gone(kept, bpffs_factory):
    mount = bpffs_factory()
    if not os.fork():
        loaded = Object.open(Path(__file__).parent / "cgroup_egress.bpf.c").load()
        loaded.program("egress").attach(kept).pin(mount / "forgotten")
        os._exit(0)
    os.wait()

def test_child_attaches_without_a_link_and_is_gone(kept):
    if not os.fork():
        loaded = Object.open(Path(__file__).parent / "cgroup_egress.bpf.c").load()
        kept.attach(loaded.program("egress"))
        os._exit(0)
    os.wait()

def test_after(bpf_object, bpf_link, kept, bpffs):
    bpf_link(bpf_object("cgroup_egress.bpf.c").program("egress"), kept).pin(bpffs / "link")

def test_takes_its_time():
    import time
    time.sleep(1.1)

def test_last(): pass
"""


def test_guests_are_watched(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    shutil.copy(OBJECT, pytester.path)
    pytester.makepyfile(TESTS)

    result = pytester.runpytest_subprocess("-W", "error", "--kernel", "5.10,7.2", timeout=400)

    output = result.stdout.str()
    result.assert_outcomes(passed=18, failed=2, errors=4)
    wrong = re.findall(r"^_+ (ERROR at teardown of )?(\w+)\[(.+)\] _+$", output, re.MULTILINE)
    assert sorted(wrong) == [
        (error, test, kernel)
        for error, test in (
            ("", "test_warns"),
            ("ERROR at teardown of ", "test_child_attaches_without_a_link_and_is_gone"),
            ("ERROR at teardown of ", "test_child_pins_and_is_gone"),
        )
        for kernel in ("5.10", "7.2")
    ]
    # The line has another format since Linux 6.19.
    for head in (
        r"WARNING: CPU: 0 PID: \d+ at fs/proc/generic\.c:\d+ proc_register\S+",
        r"WARNING: fs/proc/generic\.c:\d+ at proc_register\S+, CPU#0: \w+/\d+",
    ):
        assert re.search(
            rf"^{head}.*\nThe kernel logged this while this test ran, in process \d+:\n"
            r"\[ *\d+\.\d+\] -+\[ cut here \]-+\n"
            r"\[ *\d+\.\d+\] proc_dir_entry 'pktgen/pgctrl' already registered\n"
            r"(?:\[.*\n)+?\[ *\d+\.\d+\] ---\[ end trace \w+ \]---$",
            output,
            re.MULTILINE,
        )
    for left in (
        r"the test left link \d+ .*, held by pin /\S+/forgotten",
        r"the test left program \d+ .*, held by the attachment to cgroup /\S+ \(CGROUP_INET_EG.+\)",
    ):
        assert len(re.findall(rf"^{left}$", output, re.MULTILINE)) == 2
