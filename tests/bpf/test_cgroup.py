"""Cgroups: entering and leaving them, legacy attachments, and removal."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags, AttachType, BpfError, Cgroup, eventually
from pytest_bpflink.selftests.support.witness import PacketWitness
from pytest_bpflink.system.cgroup2 import cgroup2_mount, own_cgroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Object

UNSEEN = "a socket that was made inside and is still open, as a rule"
EGRESS = AttachType.CGROUP_INET_EGRESS


@pytest.fixture
def witness(bpf_object: Callable[..., Object]) -> PacketWitness:
    return PacketWitness(bpf_object("../../selftests/progs/cgroup_egress.bpf.c"))


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_cgroup_is_below_the_mount_of_cgroup2(cgroup: Cgroup) -> None:
    assert cgroup.path.is_relative_to(cgroup2_mount())
    assert cgroup.id == os.stat(cgroup.path).st_ino
    assert os.fspath(cgroup) == str(cgroup.path)


def test_entered_and_left(cgroup: Cgroup) -> None:
    home = own_cgroup()
    with cgroup.entered() as inside:
        assert inside is cgroup
        assert own_cgroup() == cgroup.path
        assert cgroup.procs == [os.getpid()]
    assert own_cgroup() == home
    assert cgroup.procs == []


def test_entered_within_another(cgroup: Cgroup) -> None:
    inner = cgroup.create("inner")
    home = own_cgroup()
    with cgroup.entered():
        with inner.entered():
            assert own_cgroup() == inner.path
        assert own_cgroup() == cgroup.path
    assert own_cgroup() == home


def test_left_after_an_exception(cgroup: Cgroup) -> None:
    home = own_cgroup()
    with pytest.raises(ZeroDivisionError), cgroup.entered():
        _ = 1 / 0
    assert own_cgroup() == home


def test_create_twice(cgroup: Cgroup) -> None:
    cgroup.create("twin")
    with pytest.raises(FileExistsError):
        cgroup.create("twin")


def test_kill(cgroup: Cgroup, process: subprocess.Popen[bytes]) -> None:
    cgroup.create("below").add(process.pid)
    assert cgroup.procs_below == {process.pid}
    cgroup.kill()
    assert process.wait(timeout=1) == -9
    assert cgroup.procs_below == set()


def test_freeze(cgroup: Cgroup, process: subprocess.Popen[bytes]) -> None:
    def is_frozen() -> bool:
        return "frozen 1" in (cgroup.path / "cgroup.events").read_text()

    cgroup.add(process.pid)
    cgroup.freeze()
    eventually(is_frozen)
    cgroup.freeze(False)
    eventually(lambda: not is_frozen())


def test_remove_moves_processes_out(cgroup: Cgroup, process: subprocess.Popen[bytes]) -> None:
    inner = cgroup.create("inner")
    inner.create("deeper").add(process.pid)
    inner.remove()
    inner.remove()
    assert not inner.path.exists()
    assert cgroup.procs == [process.pid]


def test_remove_waits_for_auto_detach(cgroup: Cgroup, witness: PacketWitness) -> None:
    inner = cgroup.create("inner")
    with witness.object.program("egress").attach(inner) as link:
        assert witness.of_datagram_from(inner) == (1, 0)
        inner.remove()
        assert link.info.cgroup_id == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "unbound"])
def test_remove_says_what_holds_it(cgroup: Cgroup, witness: PacketWitness, *, bound: bool) -> None:
    """A bound socket is named; the kernel does not list an unbound one."""
    inner = cgroup.create("inner")
    with witness.object.program("egress").attach(inner) as link:
        with inner.entered():
            held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            number = held.fileno()
        if bound:
            held.bind(("127.0.0.1", 0))
        with held, pytest.raises(AssertionError) as raised:
            inner.remove(within=0.05)
        holder = f"UDP socket, fd {number} of pid {os.getpid()} ({_own_name()})"
        assert str(raised.value) == (
            f"{inner.path} is removed, but after 0.05 s these links to it are still attached:"
            f" {link.id}. What holds them: {holder if bound else UNSEEN}"
        )


def _own_name() -> str:
    with open("/proc/self/comm", encoding="utf-8") as name:
        return name.read().strip()


def test_legacy_attachment(cgroup: Cgroup, witness: PacketWitness) -> None:
    egress = witness.object.program("egress")
    assert cgroup.attached(EGRESS).prog_ids == ()

    cgroup.attach(egress, AttachFlags.ALLOW_OVERRIDE)

    assert cgroup.attached(EGRESS).prog_ids == (egress.id,)
    assert cgroup.attached(EGRESS).flags == AttachFlags.ALLOW_OVERRIDE
    assert witness.of_datagram_from(cgroup) == (1, 0)

    cgroup.detach(egress)

    assert cgroup.attached(EGRESS).prog_ids == ()
    assert witness.of_datagram_from(cgroup) == (0, 0)


def test_query_of_an_unknown_attach_type(cgroup: Cgroup) -> None:
    with pytest.raises(BpfError) as raised:
        cgroup.attached(AttachType(999))
    assert raised.value.errno == errno.EINVAL
    assert "(UNKNOWN_999): EINVAL" in str(raised.value)
