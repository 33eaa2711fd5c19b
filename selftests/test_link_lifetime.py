"""What keeps a link, what ends it, and who may change it."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, CgroupLinkInfo, DescriptorHolder, Link, eventually, link_ids
from pytest_bpflink.selftests.support.stranger import (
    CAP_BPF,
    CAP_SYS_ADMIN,
    as_stranger,
    with_capabilities,
)
from pytest_bpflink.selftests.support.witness import PacketWitness, SyscallWitness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs, Cgroup, Object, Program


@pytest.fixture
def witness() -> Iterator[SyscallWitness]:
    with SyscallWitness.of("pin_raw_tp") as loaded:
        yield loaded


@pytest.fixture
def program(witness: SyscallWitness) -> Program:
    return witness.object.program("pin_raw_tp")


@pytest.fixture
def link(program: Program, bpf_link: Callable[..., Link]) -> Link:
    return bpf_link(program)


@pytest.fixture
def packets(bpf_object: Callable[..., Object]) -> PacketWitness:
    return PacketWitness(bpf_object("progs/cgroup_egress.bpf.c"))


@pytest.fixture
def egress(packets: PacketWitness) -> Program:
    return packets.object.program("egress")


@pytest.fixture
def egress_alt(packets: PacketWitness) -> Program:
    return packets.object.program("egress_alt")


# What ends a link.


def test_destroy_ends_it(link: Link, witness: SyscallWitness) -> None:
    """The close of the last descriptor ends the program and the link's id at once."""
    assert witness.runs()

    link.destroy()

    assert witness.stopped()
    assert link.id not in link_ids()


def test_destroy_twice(link: Link, witness: SyscallWitness) -> None:
    """A second destroy does nothing, not even to a descriptor that got the same number since."""
    number = link.fd
    link.destroy()
    other = os.open(os.devnull, os.O_RDONLY)
    os.dup2(other, number)
    link.destroy()
    os.fstat(number)  # EBADF if the second destroy had closed it
    for descriptor in {other, number}:
        os.close(descriptor)
    assert witness.stopped()


@pytest.mark.parametrize("end", ["exit", "sigkill"])
def test_ends_with_its_process(link: Link, witness: SyscallWitness, end: str) -> None:
    """A link ends with the process that holds its last descriptor, however the process ends."""
    with _holding_process(link) as holder:
        link.destroy()
        assert witness.runs()
        assert {type(each) for each in link.holders()} == {DescriptorHolder}
        assert [each.pid for each in _descriptors(link)] == [holder.pid]

        _end(holder, end)

    assert witness.stopped()
    assert link.id not in link_ids()


@pytest.mark.parametrize("end", ["exit", "sigkill"])
def test_pinned_survives_its_process(
    link: Link, witness: SyscallWitness, bpffs: BpfFs, end: str
) -> None:
    """A pinned link outlives the last process that holds a descriptor."""
    link.pin(bpffs / "link")
    with _holding_process(link) as holder:
        link.destroy()
        _end(holder, end)

    assert witness.runs()
    with Link.open(bpffs / "link") as opened:
        assert opened.id == link.id


def test_unlinking_the_pin_ends_it(link: Link, witness: SyscallWitness, bpffs: BpfFs) -> None:
    """When the pin, the only holder, is unlinked, the program stops; the kernel may defer that."""
    link.pin(bpffs / "link")
    link.destroy()
    assert witness.runs()

    (bpffs / "link").unlink()

    eventually(witness.stopped, what="the program stops after unlink")
    eventually(lambda: link.id not in link_ids(), what="the link's id is gone")


def test_unmounting_ends_it(link: Link, witness: SyscallWitness, bpffs: BpfFs) -> None:
    """When the BPF FS of the pin is unmounted, the program stops; the kernel may defer that."""
    link.pin(bpffs / "link")
    link.destroy()
    assert witness.runs()

    bpffs.unmount()

    eventually(witness.stopped, what="the program stops after umount")
    eventually(lambda: link.id not in link_ids(), what="the link's id is gone")


# What keeps a link.


@pytest.mark.parametrize("first_to_go", ["original", "duplicate"])
def test_second_descriptor_keeps_it(link: Link, witness: SyscallWitness, first_to_go: str) -> None:
    """Either of two descriptors keeps a link without the other."""
    with Link.from_fd(link.fd) as duplicate:
        gone, kept = (link, duplicate) if first_to_go == "original" else (duplicate, link)
        gone.destroy()
        assert witness.runs()
        assert kept.info.id == link.id
        kept.destroy()
    assert witness.stopped()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_keeps_it(link: Link, witness: SyscallWitness) -> None:
    """A descriptor that a child has inherited by fork keeps a link."""
    waiting, ending = os.pipe()
    child = os.fork()
    if not child:
        os.close(ending)
        os.read(waiting, 1)
        os._exit(0)
    os.close(waiting)
    link.destroy()
    assert witness.runs()
    assert [each.pid for each in _descriptors(link)] == [child]

    os.close(ending)
    assert os.waitpid(child, 0) == (child, 0)

    assert witness.stopped()
    assert link.id not in link_ids()


def test_descriptor_in_flight_keeps_it(link: Link, witness: SyscallWitness) -> None:
    """A descriptor that is sent over a socket keeps a link, before and after it is received."""
    near, far = socket.socketpair()
    with near, far:
        socket.send_fds(near, [b"link"], [link.fd])
        link.destroy()
        assert witness.runs()
        assert link.holders() == ()

        _, (received, *_), _, _ = socket.recv_fds(far, 16, 1)
        with Link.from_fd(received) as passed:
            os.close(received)
            assert witness.runs()
            assert passed.id == link.id
    assert witness.stopped()


def test_disconnect(link: Link, witness: SyscallWitness) -> None:
    """A disconnected link leaves its descriptor open when destroyed, and so stays attached."""
    number = link.fd
    link.disconnect()
    link.destroy()

    assert witness.runs()
    assert [each.fd for each in _descriptors(link)] == [number]

    link.close()

    assert witness.stopped()
    assert link.id not in link_ids()


# One program and several links, one after the other or at once.


def test_one_program_in_two_links(
    packets: PacketWitness, egress: Program, cgroup: Cgroup, bpf_link: Callable[..., Link]
) -> None:
    """Two links to two cgroups are independent of each other."""
    first, second = cgroup.create("first"), cgroup.create("second")
    bpf_link(egress, first)
    to_second = bpf_link(egress, second)
    assert packets.of_datagram_from(first) == (1, 0)
    assert packets.of_datagram_from(second) == (1, 0)

    to_second.destroy()

    assert packets.of_datagram_from(first) == (1, 0)
    assert packets.of_datagram_from(second) == (0, 0)


def test_attach_again_after_destroy(
    link: Link, program: Program, witness: SyscallWitness, bpf_link: Callable[..., Link]
) -> None:
    """A program can be attached anew when its link is gone, by a link of another id."""
    link.destroy()
    assert witness.stopped()

    again = bpf_link(program)

    assert witness.runs()
    assert again.id != link.id


def test_attach_again_after_detach(
    packets: PacketWitness, egress: Program, cgroup: Cgroup, bpf_link: Callable[..., Link]
) -> None:
    """A program can be attached anew while the detached link is still held."""
    detached = bpf_link(egress, cgroup)
    detached.detach()
    assert packets.of_datagram_from(cgroup) == (0, 0)

    bpf_link(egress, cgroup)

    assert packets.of_datagram_from(cgroup) == (1, 0)
    detached.destroy()
    assert packets.of_datagram_from(cgroup) == (1, 0)


# Who may change a link.


@pytest.fixture
def owned(egress: Program, cgroup: Cgroup, bpf_link: Callable[..., Link]) -> Link:
    """A link of a type that can be updated and detached."""
    return bpf_link(egress, cgroup)


def test_owner_may_change(
    owned: Link, cgroup: Cgroup, packets: PacketWitness, egress_alt: Program
) -> None:
    """The process that attached a link may update and detach it."""
    owned.update(egress_alt)
    assert packets.of_datagram_from(cgroup) == (0, 1)
    owned.detach()
    assert packets.of_datagram_from(cgroup) == (0, 0)


def test_inheritor_may_change(
    owned: Link, cgroup: Cgroup, packets: PacketWitness, egress_alt: Program
) -> None:
    """A process that only has a descriptor may do the same, if bpf(2) is open without privilege.

    Before 5.19 `kernel.unprivileged_bpf_disabled` closed all of bpf(2) to such a process; since
    then it closes only loading programs and making maps (c8644cd0efe7).
    """
    if _bpf_is_closed(egress_alt):
        for change in (owned.detach, lambda: owned.update(egress_alt), lambda: owned.info):
            with pytest.raises(BpfError) as refused:
                as_stranger(change)
            assert refused.value.errno == errno.EPERM
        assert packets.of_datagram_from(cgroup) == (1, 0)
        return

    info = as_stranger(lambda: owned.info)
    assert isinstance(info, CgroupLinkInfo)
    assert info.cgroup_id == cgroup.id
    as_stranger(owned.update, egress_alt)
    assert packets.of_datagram_from(cgroup) == (0, 1)
    as_stranger(owned.detach)
    assert packets.of_datagram_from(cgroup) == (0, 0)


def test_by_id_needs_privilege(
    owned: Link, cgroup: Cgroup, packets: PacketWitness, egress_alt: Program
) -> None:
    """Only a process with CAP_SYS_ADMIN can open a link by its id, and it may change the link."""
    for too_little in ((), (CAP_BPF,)):
        with pytest.raises(BpfError) as refused:
            with_capabilities(too_little, Link.by_id, owned.id)
        assert refused.value.errno == errno.EPERM
    assert packets.of_datagram_from(cgroup) == (1, 0)

    with with_capabilities((CAP_SYS_ADMIN,), Link.by_id, owned.id) as opened:
        with_capabilities((CAP_SYS_ADMIN,), opened.update, egress_alt)
        assert packets.of_datagram_from(cgroup) == (0, 1)
        with_capabilities((CAP_SYS_ADMIN,), opened.detach)
    assert packets.of_datagram_from(cgroup) == (0, 0)


def test_pin_opens_by_its_mode(
    owned: Link,
    cgroup: Cgroup,
    packets: PacketWitness,
    egress_alt: Program,
    bpffs_factory: Callable[..., BpfFs],
) -> None:
    """Only a user whom the pin's mode allows both reading and writing can open the link."""
    with bpffs_factory(mode=0o755) as bpffs, _directory(bpffs) as directory:
        owned.pin(bpffs / "link")
        # Through the descriptor the stranger needs no right to the directories above the mount.
        pin = Path(f"/proc/self/fd/{directory}/link")
        closed = _bpf_is_closed(egress_alt)

        for mode in (0o600, 0o644):
            pin.chmod(mode)
            with pytest.raises(BpfError) as refused:
                as_stranger(Link.open, pin)
            assert refused.value.errno == (errno.EPERM if closed else errno.EACCES)
        assert packets.of_datagram_from(cgroup) == (1, 0)

        pin.chmod(0o666)
        if closed:
            with pytest.raises(BpfError) as refused:
                as_stranger(Link.open, pin)
            assert refused.value.errno == errno.EPERM
            return
        with as_stranger(Link.open, pin) as opened:
            as_stranger(opened.update, egress_alt)
            assert packets.of_datagram_from(cgroup) == (0, 1)
            as_stranger(opened.detach)
        assert packets.of_datagram_from(cgroup) == (0, 0)


def _descriptors(link: Link) -> list[DescriptorHolder]:
    return [holder for holder in link.holders() if isinstance(holder, DescriptorHolder)]


@contextlib.contextmanager
def _holding_process(link: Link) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that inherits a link's descriptor, until its input ends or it is killed."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[link.fd]) as process:
        try:
            yield process
        finally:
            process.kill()


def _end(process: subprocess.Popen[bytes], end: str) -> None:
    if end == "exit":
        process.communicate()
        assert process.returncode == 0
    else:
        process.kill()
        assert process.wait() == -signal.SIGKILL


def _bpf_is_closed(program: Program) -> bool:
    """Whether bpf(2) refuses a stranger even the info of a program whose descriptor it has."""
    try:
        as_stranger(lambda: program.id)
    except BpfError as error:
        assert error.errno == errno.EPERM  # noqa: PT017 - another errno would be the failure
        setting = Path("/proc/sys/kernel/unprivileged_bpf_disabled").read_text().strip()
        assert setting != "0"
        return True
    return False


@contextlib.contextmanager
def _directory(path: os.PathLike[str]) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
