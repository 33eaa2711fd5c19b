"""The target that `bpflink links` shows for each type, on a kernel that reports all of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import LinkType
from pytest_bpflink.commands.targets import Places
from pytest_bpflink.selftests.conformance.checks import full_row
from pytest_bpflink.selftests.conformance.fixtures import (  # noqa: F401
    libc_copy,
    link,
    own_target,
    places,
    programs,
    stage,
)
from pytest_bpflink.selftests.conformance.network_stages import InNetNs
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink import KernelInfo, Link, NetNs, Program
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = [pytest.mark.guest_only, pytest.mark.kernel(">=7.2")]

TRACED = {
    "raw_tp": "sys_enter",
    "tp_btf": "sys_enter",
    "fentry": "security_task_getpgid",
    "fexit": "security_task_getpgid",
    "fmod_ret": "security_task_getpgid",
    "lsm": "bpf_lsm_task_getpgid",
    "kprobe": "kprobe security_task_getpgid",
    "kretprobe": "kretprobe security_task_getpgid",
    "kprobe_multi": "security_task_getpgid, security_task_getscheduler",
    "tracepoint": "tracepoint sys_enter_getpgid",
    "perf_event": "software event page_faults",
    "netfilter": "ipv4 local_out, priority -128",
}

Words = Callable[["Row", Any, str], str]

#: Called with the row, its stage, and the name of the stage's network namespace.
BY_TYPE: dict[LinkType, Words] = {
    LinkType.CGROUP: lambda _row, at, _where: str(at.target.path),
    LinkType.NETNS: lambda _row, _at, where: where,
    LinkType.XDP: lambda _row, at, where: f"{at.target.name} in {where}",
    LinkType.TCX: lambda _row, at, where: f"{at.target.name} in {where}",
    LinkType.NETKIT: lambda row, at, where: f"{holder(row, at).name} in {where}",
    LinkType.SOCKMAP: lambda _row, at, _where: f"map {at.target.id} sockets",
    LinkType.STRUCT_OPS: lambda _row, at, _where: f"map {at.first.id} congestion",
    LinkType.TRACING_MULTI: lambda _row, at, _where: ", ".join(in_order(at)),
}

BY_ROW: dict[str, Words] = {
    "freplace": lambda _row, at, _where: replaced(at.target),
    "uprobe": lambda _row, at, _where: f"uprobe {at.target}+{at.options['offset']:#x}",
    "uretprobe": lambda _row, at, _where: f"uretprobe {at.target}+{at.options['offset']:#x}",
    "uprobe_multi": lambda _row, at, _where: f"{at.target}+{at.options['offsets'][0]:#x}",
    "iter_map_elem": lambda _row, at, _where: f"bpf_map_elem of map {at.target.id} elements",
    "iter_cgroup": lambda _row, at, _where: f"cgroup of {at.target.path}",
}


@full_row
def test_target_in_words(row: Row, stage: Stage, link: Link, bpf_kernel: KernelInfo) -> None:  # noqa: F811 (fixtures)
    words = BY_ROW.get(row.id) or BY_TYPE.get(row.link_type) or fixed
    kind = row.info(stage).get("attach_type")
    way = f" ({kind.name.lower()})" if kind else ""
    with in_sight(stage) as where:
        expected = f"{words(row, stage, where)}{way}"
        if row.link_type == LinkType.TRACING_MULTI and bpf_kernel.version < row.info_since:
            expected = "kernel functions"
        assert Places().words(link.info) == expected


def fixed(row: Row, _stage: Stage, _where: str) -> str:
    return TRACED.get(row.id, row.id.removeprefix("iter_"))


def holder(row: Row, stage: Any) -> Any:  # noqa: F811
    """Return the end of a netkit that a program is on."""
    return stage.sender if row.id == "netkit_peer" else stage.target


def replaced(program: Program) -> str:
    return f"step of program {program.id} {program.name} (freplace)"


def in_order(stage: Any) -> list[str]:  # noqa: F811
    """Return the functions of a TRACING_MULTI link in the kernel's order."""
    return [name for _, name in sorted(zip(stage.numbers, stage.target, strict=True))]


@contextlib.contextmanager
def in_sight(stage: Stage) -> Iterator[str]:  # noqa: F811
    """Run a process in the stage's network namespace, so that it is found; yield its name."""
    if not isinstance(stage, InNetNs):
        yield ""
        return
    netns: NetNs = stage.netns
    with netns.entered():
        process = subprocess.Popen(["sleep", "60"])
    with process:
        yield f"netns of pid {process.pid}"
        process.kill()


def test_namespace_without_a_process_can_not_be_seen(request: pytest.FixtureRequest) -> None:
    """A device with the same index in another namespace is not taken for it."""
    row = next(row for row in ROWS if row.id == "xdp-generic")
    made: Any = row.make_stage(request)
    attached = made.attach()
    index = made.device.ifindex
    assert Path("/proc/self/ns/net").stat().st_ino == os.stat("/proc/1/ns/net").st_ino
    expected = f"device {index} in a network namespace that can't be seen here"
    assert Places().words(attached.info) == expected
