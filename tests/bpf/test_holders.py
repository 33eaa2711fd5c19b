"""The holders of links, programs and maps; and the family of a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import Link, Object, ObjectHolder, eventually
from pytest_bpflink.introspection.entries import entry_of
from pytest_bpflink.introspection.holders import holders
from pytest_bpflink.system import procfs
from pytest_bpflink.system.processes import Family, parent_of
from pytest_bpflink.system.procfs import processes
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfFs, Cgroup

OBJECT = ROOT / "selftests/progs/cgroup_egress.bpf.c"


@pytest.fixture
def link(bpf_object: Callable[..., Object], bpf_link: Callable[..., Link], cgroup: Cgroup) -> Link:
    return bpf_link(bpf_object(OBJECT).program("egress"), cgroup)


def test_holders_of_programs_and_maps(link: Link, bpf_object: Callable[..., Object]) -> None:
    program = link.info.prog_id
    assert ObjectHolder("link", link.id) in holders("program", program)
    (bss,) = (each for each in bpf_object(OBJECT).maps.values() if each.name.endswith(".bss"))
    assert {each.kind for each in holders("map", bss.id) if isinstance(each, ObjectHolder)} == {
        "program"
    }
    entry = entry_of(("program", program))
    assert str(entry) == f"program {program} (CGROUP_SKB egress)"


def test_pins_in_other_mount_namespaces_are_found(link: Link, bpffs: BpfFs) -> None:
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "mount -t bpf none /mnt; echo ready; exec sleep 60"],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            link.pin(bpffs / "here")
            elsewhere = Path(f"/proc/{process.pid}/root/mnt/there")
            with Link.from_fd(link.fd) as again:
                again.pin(elsewhere)
            assert [str(each) for each in link.holders() if "pin" in str(each)] == [
                f"pin {bpffs / 'here'}",
                f"pin {elsewhere}",
            ]
        finally:
            process.kill()
    eventually(lambda: len(link.holders()) == 2)


def test_family_is_this_process_and_what_it_started() -> None:
    family = Family()
    assert os.getpid() in family.pids()
    assert os.getppid() not in family.pids()
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout
        sleeping = int(shell.stdout.readline())
        try:
            assert {shell.pid, sleeping} <= family.pids()
            shell.kill()
            shell.wait()
            assert sleeping in family.pids()
            # Its parent is gone: only the family that saw it before knows it.
            assert sleeping not in Family().pids()
        finally:
            os.kill(sleeping, signal.SIGKILL)


def test_kernel_threads_are_not_looked_into() -> None:
    children = Path("/proc/2/task/2/children")
    if not children.exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("the kernel's threads are not seen in this PID namespace")
    threads = set(map(int, children.read_text().split()))
    with subprocess.Popen(["sleep", "60"]) as process:
        found = processes()
        process.kill()
    assert threads
    assert not threads & set(found)
    assert {os.getpid(), process.pid} <= set(found)
    assert found == sorted(found)


def test_process_may_have_the_pid_of_a_former_kernel_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procfs, "_known_kernel_threads", {os.getpid()})
    assert os.getpid() in processes()


def test_family_looks_at_a_kernel_thread_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are many, and kernels since 2025 let nobody read a kernel thread's environment."""
    kthreadd = Path("/proc/2/comm")
    if not kthreadd.exists() or kthreadd.read_text() != "kthreadd\n":
        pytest.skip("the kernel's threads are not seen in this PID namespace")
    asked: dict[int, int] = {}

    def note(pid: int) -> int:
        asked[pid] = parent_of(pid)
        return asked[pid]

    known = Family()
    with monkeypatch.context() as patched:
        patched.setattr("pytest_bpflink.system.processes.parent_of", note)
        known.pids()
        threads = {pid for pid, parent in asked.items() if parent == 2}
        asked.clear()
        with subprocess.Popen(["sleep", "0"]) as process:
            known.pids()
    assert process.pid in asked
    assert len(threads) > 1
    assert not threads & set(asked)


def test_family_knows_daemons_by_their_environment() -> None:
    family = Family()
    code = "import os; os.fork() and os._exit(0); print(os.getpid(), flush=True); os.close(1);"
    code += "os.execlp('sleep', 'sleep', '60')"
    out = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    daemon = int(out.stdout)
    try:
        eventually(lambda: daemon in family.pids())  # it may be within execve
    finally:
        os.kill(daemon, signal.SIGKILL)
