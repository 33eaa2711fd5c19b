"""What holds for a link of any type, asked of every row of `conformance`.

Whether a program runs is seen from what it counts when the test triggers it; that the kernel
accepted something is never taken for its effect.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import signal
import socket
import subprocess
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import (
    BpfError,
    DescriptorHolder,
    Link,
    Map,
    PinHolder,
    Program,
    eventually,
    features,
    libbpf,
    link_ids,
    requirements,
)
from pytest_bpflink.options import LinkUpdateOptions, ObjGetOptions
from pytest_bpflink.selftests.conformance import OK, ROWS, Row
from pytest_bpflink.selftests.stranger import as_stranger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs, KernelInfo, Object
    from pytest_bpflink.selftests.stages import Stage

pytestmark = pytest.mark.guest_only

FIRST, SECOND, NONE = (True, False), (False, True), (False, False)

_UNKNOWN_FLAG = 1 << 31
_READ_ONLY = 1 << 3  # BPF_F_RDONLY


def _each(condition: Callable[[Row], object] = lambda row: not row.brief) -> pytest.MarkDecorator:
    """Ask it of the rows that fulfil a condition."""
    rows = [pytest.param(row, id=row.id) for row in ROWS if condition(row)]
    return pytest.mark.parametrize("row", rows)


every_row = _each(lambda _row: True)
full_row = _each()
updatable = _each(lambda row: row.update == OK)
not_updatable = _each(lambda row: row.update != OK)
detachable = _each(lambda row: row.detach == OK)
not_detachable = _each(lambda row: row.detach != OK)


@pytest.fixture
def stage(row: Row, request: pytest.FixtureRequest) -> Stage:
    """The row's target, entered and ready to be triggered."""
    reason = _absent.get(row.id)
    if reason:
        pytest.skip(reason)
    made: Stage = _or_absent(row, request, partial(_make_stage, row, request))
    return made


@pytest.fixture
def link(row: Row, stage: Stage, request: pytest.FixtureRequest) -> Link:
    """The row's first program, attached."""
    attached: Link = _or_absent(row, request, stage.attach)
    return attached


# Rows that this kernel or libbpf lacks, and why: each is found out once.
_absent: dict[str, str] = {}


def _or_absent(row: Row, request: pytest.FixtureRequest, make: Callable[[], Any]) -> Any:
    """Make something of a row's, or skip or fail as `requirements` has it."""
    try:
        return make()
    except BpfError as error:
        absence = error
    try:
        requirements.absent(request.config, row.id, absence, since=row.since, options=row.config)
    except pytest.skip.Exception as skipped:
        _absent[row.id] = str(skipped)
        raise


def _make_stage(row: Row, request: pytest.FixtureRequest) -> Stage:
    if row.libbpf:
        features.require_libbpf(row.libbpf, what=f"link row {row.id}")
    return row.make_stage(request)


# Attached, and no longer.


@every_row
def test_runs_while_held(link: Link, stage: Stage) -> None:
    """It runs while a descriptor is held, stops when the last is closed, and its id is gone."""
    assert stage.ran() == FIRST

    link.destroy()

    assert stage.ran() == NONE
    assert link.id not in link_ids()


@every_row
def test_info(link: Link, stage: Stage, row: Row, bpf_kernel: KernelInfo) -> None:
    """Its info names its type, its program and its target."""
    info = link.info
    assert (info.id, info.type, info.prog_id) == (link.id, row.link_type, stage.prog_id)
    if bpf_kernel.version >= _version(row.info_since):
        expected = row.info(stage)
        assert {name: getattr(info, name) for name in expected} == expected


@full_row
def test_attach_again(stage: Stage, link: Link, row: Row, bpf_kernel: KernelInfo) -> None:
    """The same program attaches to the same target twice, or is refused as the row says."""
    expected = row.again(bpf_kernel)
    if expected == OK:
        second = stage.attach()
        assert second.id != link.id
        second.destroy()
    else:
        with pytest.raises(BpfError) as refused:
            stage.attach()
        assert refused.value.errno == expected
    assert stage.ran() == FIRST


@full_row
def test_attach_again_later(stage: Stage, link: Link, row: Row, bpf_kernel: KernelInfo) -> None:
    """A program attaches anew once its link is gone."""
    link.destroy()
    expected = row.again_later(bpf_kernel)
    if expected == OK:
        assert stage.attach().id != link.id
        assert stage.ran() == FIRST
        return
    with pytest.raises(BpfError) as refused:
        stage.attach()
    assert refused.value.errno == expected


# Who keeps it.


@every_row
def test_pin(link: Link, stage: Stage, bpffs: BpfFs) -> None:
    """Pinned it outlives its descriptor, and opens from the pin as what it was."""
    pin, before = bpffs / "link", link.info
    link.pin(pin)
    link.destroy()
    assert stage.ran() == FIRST

    with Link.open(pin) as opened:
        assert opened.info == before
        opened.unpin()
        assert not pin.exists()
        assert stage.ran() == FIRST
        assert _holders(opened) == {opened.fd}

    # At once on most kernels; on 5.10 a link that was pinned ends about 10 ms later.
    eventually(lambda: stage.ran() == NONE, what="the program stops after unpin and destroy")
    eventually(lambda: link.id not in link_ids(), what="the link's id is gone")


@full_row
def test_two_pins(
    link: Link, stage: Stage, bpffs: BpfFs, bpffs_factory: Callable[..., BpfFs]
) -> None:
    """Pins in two BPF file systems keep it, each without the other."""
    with bpffs_factory() as other, Link.from_fd(link.fd) as again:
        link.pin(bpffs / "link")
        again.pin(other / "link")
        assert set(link.holders()) >= {PinHolder(bpffs / "link"), PinHolder(other / "link")}
        again.destroy()
        link.destroy()
        bpffs.unmount()
        assert stage.ran() == FIRST
        with Link.open(other / "link") as opened:
            assert opened.id == link.id
    eventually(lambda: stage.ran() == NONE, what="the program stops after the second unmount")


@full_row
def test_two_handles(link: Link, stage: Stage) -> None:
    """Two descriptors keep it, each without the other."""
    with Link.from_fd(link.fd) as duplicate:
        assert _holders(link) == {link.fd, duplicate.fd}
        link.destroy()
        assert stage.ran() == FIRST
        assert duplicate.info.id == link.id
    assert stage.ran() == NONE


@full_row
def test_by_id(link: Link, stage: Stage) -> None:
    """It is among all links, and opened by its id it is the same and is held."""
    assert link.id in link_ids()
    with Link.by_id(link.id) as found:
        assert found.info == link.info
        link.destroy()
        assert stage.ran() == FIRST
    assert stage.ran() == NONE
    with pytest.raises(BpfError) as refused:
        Link.by_id(link.id)
    assert refused.value.errno == errno.ENOENT


@full_row
def test_killed_holder(link: Link, stage: Stage) -> None:
    """A process that holds the last descriptor takes it along when it is killed."""
    with _holding_process(link) as holder:
        link.destroy()
        assert stage.ran() == FIRST
        assert [each.pid for each in link.holders() if isinstance(each, DescriptorHolder)] == [
            holder.pid
        ]
    assert holder.returncode == -signal.SIGKILL
    assert stage.ran() == NONE
    assert link.id not in link_ids()


@full_row
def test_killed_holder_of_pinned(link: Link, stage: Stage, bpffs: BpfFs) -> None:
    """A pin keeps it when the last process that holds it is killed."""
    link.pin(bpffs / "link")
    with _holding_process(link):
        link.destroy()
    assert stage.ran() == FIRST
    assert set(link.holders()) == {PinHolder(bpffs / "link")}


@full_row
def test_passed_descriptor(link: Link, stage: Stage) -> None:
    """A descriptor in flight keeps it, and arrives as the same link."""
    near, far = socket.socketpair()
    with near, far:
        socket.send_fds(near, [b"link"], [link.fd])
        link.destroy()
        assert stage.ran() == FIRST
        _, (received, *_), _, _ = socket.recv_fds(far, 16, 1)
    with Link.from_fd(received) as passed:
        os.close(received)
        assert passed.id == link.id
        assert stage.ran() == FIRST
    assert stage.ran() == NONE


@full_row
def test_disconnect(link: Link, stage: Stage) -> None:
    """Destroyed after disconnect it stays attached, until its descriptor is closed."""
    link.disconnect()
    link.destroy()
    assert stage.ran() == FIRST
    link.close()
    assert stage.ran() == NONE


# Who may open it.


@full_row
def test_read_only(link: Link, stage: Stage, bpffs: BpfFs) -> None:
    """A pin can't be opened read-only: EINVAL, whatever its type."""
    link.pin(bpffs / "link")
    options = ObjGetOptions(file_flags=_READ_ONLY)
    with pytest.raises(BpfError) as refused:
        libbpf.call(
            "bpf_obj_get_opts",
            os.fsencode(bpffs / "link"),
            ctypes.byref(options),
            doing="open a pin read-only",
        )
    assert refused.value.errno == errno.EINVAL
    assert stage.ran() == FIRST


@full_row
def test_stranger(link: Link, stage: Stage) -> None:
    """Without privilege it can't be opened by its id."""
    with pytest.raises(BpfError) as refused:
        as_stranger(Link.by_id, link.id)
    assert refused.value.errno == errno.EPERM
    assert stage.ran() == FIRST


# Update.


@updatable
def test_update(link: Link, stage: Stage) -> None:
    """Updated it is the same link, and the other program runs in place of the first."""
    _update(link, stage.second)
    assert stage.ran() == SECOND
    assert link.info.id == link.id
    if isinstance(stage.second, Program):
        assert link.info.prog_id == stage.second.id
    link.destroy()
    assert stage.ran() == NONE


@not_updatable
def test_update_refused(link: Link, stage: Stage, row: Row) -> None:
    """A type that can't be updated says so, and goes on as before."""
    with pytest.raises(BpfError) as refused:
        _update(link, stage.second)
    assert refused.value.errno == row.update
    assert stage.ran() == FIRST


@_each(lambda row: row.update == OK and not row.brief)
def test_compare_exchange(link: Link, stage: Stage) -> None:
    """An update from a program that is not the present one is EPERM, from the present one done."""
    _update(link, stage.second)
    with pytest.raises(BpfError) as refused:
        _exchange(link, stage.first, old=stage.first)
    assert refused.value.errno == errno.EPERM
    assert stage.ran() == SECOND

    _exchange(link, stage.first, old=stage.second)
    assert stage.ran() == FIRST


@_each(lambda row: row.counts_packets)
def test_no_packet_missed(link: Link, stage: Stage) -> None:
    """While it is updated over and over, each packet is seen by one of the two, and once."""
    packets, updates = 200, 0
    before, done = stage.counts(), threading.Event()

    def swap() -> None:
        nonlocal updates
        for new in itertools.cycle((stage.second, stage.first)):
            if done.is_set():
                return
            _update(link, new)
            updates += 1

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(packets):
            stage.trigger()
    finally:
        done.set()
        swapping.join()
    first, second = (now - then for now, then in zip(stage.counts(), before, strict=True))
    assert first + second == packets
    assert min(first, second, updates) > 0


@full_row
def test_update_to_other_type(
    link: Link, stage: Stage, row: Row, bpf_object: Callable[..., Object]
) -> None:
    """A program of another type is refused, and the present one goes on."""
    source = "cgroup_egress" if row.link_type.name != "CGROUP" else "sys_enter"
    name = "egress" if row.link_type.name != "CGROUP" else "pin_raw_tp"
    other = bpf_object(f"progs/{source}.bpf.c").program(name)
    with pytest.raises(BpfError) as refused:
        libbpf.call("bpf_link_update", link.fd, other.fd, None, doing="update to another type")
    assert refused.value.errno == (row.update or errno.EINVAL)
    assert stage.ran() == FIRST


@full_row
def test_generic_checks_come_first(link: Link, stage: Stage) -> None:
    """An unknown flag is EINVAL for every type, a bad descriptor of the new program EBADF."""
    for options, fd, expected in (
        (LinkUpdateOptions(flags=_UNKNOWN_FLAG), -1, errno.EINVAL),
        (LinkUpdateOptions(), 10**6, errno.EBADF),
        (LinkUpdateOptions(old_prog_fd=stage.first.fd), stage.second.fd, errno.EINVAL),
    ):
        with pytest.raises(BpfError) as refused:
            libbpf.call(
                "bpf_link_update", link.fd, fd, ctypes.byref(options), doing="update wrongly"
            )
        assert refused.value.errno == expected
    assert stage.ran() == FIRST


# Detach, and targets that go away.


@detachable
def test_detach(link: Link, stage: Stage, row: Row) -> None:
    """Detached it stops at once, its handle answers, and once more does nothing."""
    assert stage.ran() == FIRST
    link.detach()
    assert stage.ran() == NONE
    _require_detached(link, stage, row)
    link.detach()
    if row.update == OK:
        with pytest.raises(BpfError) as refused:
            _update(link, stage.second)
        assert refused.value.errno == errno.ENOLINK


@_each(lambda row: row.detach == OK and not row.brief)
def test_attach_after_detach(link: Link, stage: Stage) -> None:
    """Its program attaches anew while the detached link is held, and is not that link's."""
    link.detach()
    again = stage.attach()
    assert stage.ran() == FIRST
    link.destroy()
    assert stage.ran() == FIRST
    again.destroy()
    assert stage.ran() == NONE


@not_detachable
def test_detach_refused(link: Link, stage: Stage, row: Row) -> None:
    """A type that can't be detached says so, and goes on as before."""
    with pytest.raises(BpfError) as refused:
        link.detach()
    assert refused.value.errno == row.detach
    assert stage.ran() == FIRST


@_each(lambda row: row.target_ends)
def test_target_ends(link: Link, stage: Stage, row: Row) -> None:
    """When its target goes away it is as if detached."""
    assert stage.ran() == FIRST
    stage.end_target()
    eventually(
        lambda: all(getattr(link.info, name) == value for name, value in row.detached.items()),
        what="the link loses its target",
    )
    _require_detached(link, stage, row)
    with pytest.raises(BpfError) as refused:
        _update(link, stage.second)
    assert refused.value.errno == errno.ENOLINK
    link.detach()


@contextlib.contextmanager
def _holding_process(link: Link) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has a link's descriptor, and kill it in the end."""
    with subprocess.Popen(["sleep", "60"], pass_fds=[link.fd]) as process:
        try:
            yield process
        finally:
            process.kill()


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".") if part)


def _holders(link: Link) -> set[int]:
    """Descriptors of this process that hold a link; anybody else's would be a failure."""
    holders = link.holders()
    assert all(getattr(each, "pid", None) == os.getpid() for each in holders)
    return {each.fd for each in holders if isinstance(each, DescriptorHolder)}


def _update(link: Link, new: Program | Map) -> None:
    if isinstance(new, Map):
        link.update_map(new)
    else:
        link.update(new)


def _exchange(link: Link, new: Program | Map, *, old: Program | Map) -> None:
    options = LinkUpdateOptions(flags=1 << 2, old_prog_fd=old.fd)
    libbpf.call("bpf_link_update", link.fd, new.fd, ctypes.byref(options), doing="exchange")


def _require_detached(link: Link, stage: Stage, row: Row) -> None:
    info = link.info
    assert (info.id, info.prog_id) == (link.id, stage.prog_id)
    assert {name: getattr(info, name) for name in row.detached} == row.detached
