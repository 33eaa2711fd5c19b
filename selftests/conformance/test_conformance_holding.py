"""What holds for a link of any type, asked of every row of `conformance`: who keeps it attached.

Whether a program runs is seen from what it counts when the test triggers it; that the kernel
accepted something is never taken for its effect.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import DescriptorHolder, Link, Map, PinHolder, eventually, link_ids
from pytest_bpflink.selftests.conformance.checks import (
    FIRST,
    NONE,
    each,
    every_row,
    exists,
    full_row,
    holding_process,
    own_holders,
)
from pytest_bpflink.selftests.conformance.outcomes import OK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_bpflink import BpfFs, KernelInfo
    from pytest_bpflink.selftests.conformance.outcomes import Outcomes
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only


@every_row
def test_runs_while_held(link: Link, stage: Stage, row: Row, bpf_kernel: KernelInfo) -> None:
    """It runs while a descriptor is held; with the last it stops, and its id is gone.

    Its info names its type, its program and its target.
    """
    assert stage.ran() == FIRST
    info = link.info
    assert (info.id, info.type, info.prog_id) == (link.id, row.link_type, stage.prog_id)
    if bpf_kernel.version >= row.info_since:
        expected = row.info(stage)
        assert {name: getattr(info, name) for name in expected} == expected

    link.destroy()

    assert stage.ran() == NONE
    assert link.id not in link_ids()


@full_row
def test_attach_again(
    stage: Stage, link: Link, row: Row, outcome: Outcomes, bpf_kernel: KernelInfo
) -> None:
    """The same program attaches twice, and anew once its links are gone, as the row says."""
    links = [link]

    def attach() -> None:
        links.append(stage.attach())

    assert outcome("attach twice", attach) == row.again(bpf_kernel)
    assert stage.ran() == FIRST
    link.destroy()
    assert stage.ran() == (FIRST if row.again(bpf_kernel) == OK else NONE)
    links.pop().destroy()
    assert outcome("attach anew", attach) == row.again_later(bpf_kernel)
    assert stage.ran() == (FIRST if row.again_later(bpf_kernel) == OK else NONE)


@each(lambda row: row.many_targets and not row.brief)
@pytest.mark.usefixtures("own_target")
def test_two_targets(stage: Stage, link: Link, outcome: Outcomes) -> None:
    """A program in two links to different targets runs for each, as long as that link is held."""
    assert stage.ran() == FIRST
    other = stage.twin()
    assert outcome("attach to another target too", other.attach) == OK
    assert other.ran() == FIRST
    link.destroy()
    assert other.ran() == FIRST


@every_row
def test_pin(link: Link, stage: Stage, pin: Path) -> None:
    """Pinned it outlives its descriptor, and opens from the pin as what it was."""
    before = link.info
    link.pin(pin)
    link.destroy()
    assert stage.ran() == FIRST

    with Link.open(pin) as opened:
        assert opened.info == before
        opened.unpin()
        assert not pin.exists()
        assert stage.ran() == FIRST

    # At once on most kernels; on 5.10 a link that was pinned ends about 10 ms later.
    eventually(lambda: stage.ran() == NONE, what="the program stops after unpin and destroy")
    eventually(lambda: link.id not in link_ids(), what="the link's id is gone")


@full_row
def test_two_pins(link: Link, stage: Stage, pin: Path, bpffs_factory: Callable[..., BpfFs]) -> None:
    """Pins in two BPF file systems keep it, each without the other."""
    with bpffs_factory() as other:
        link.pin(pin)
        with Link.from_fd(link.fd) as again:
            again.pin(other / "link")
        link.destroy()
        pin.unlink()
        assert stage.ran() == FIRST
        with Link.open(other / "link") as opened:
            assert opened.id == link.id
    eventually(lambda: stage.ran() == NONE, what="the program stops after the second unmount")


@full_row
def test_handed_on(link: Link, stage: Stage, outcome: Outcomes) -> None:
    """Each descriptor keeps it without the others: a duplicate, one in flight, one by its id."""
    before = link.info
    near, far = socket.socketpair()
    with near, far, Link.from_fd(link.fd) as duplicate:
        assert own_holders(link) == {link.fd, duplicate.fd}
        link.destroy()
        assert stage.ran() == FIRST
        assert duplicate.info == before
        socket.send_fds(near, [b"link"], [duplicate.fd])
        duplicate.destroy()
        assert stage.ran() == FIRST
        _, (received, *_), _, _ = socket.recv_fds(far, 16, 1)

    with Link.from_fd(received) as passed:
        os.close(received)
        assert stage.ran() == FIRST
        assert passed.info == before
        assert link.id in link_ids()
        with Link.by_id(link.id) as found:
            passed.destroy()
            assert stage.ran() == FIRST
            assert found.info == before
    assert stage.ran() == NONE
    assert outcome("open by the id of one that is gone", Link.by_id, link.id) == errno.ENOENT


@full_row
def test_killed_holder(link: Link, stage: Stage) -> None:
    """A process that holds the last descriptor takes it along when it is killed."""
    with holding_process(link) as holder:
        link.destroy()
        assert stage.ran() == FIRST
        assert [each.pid for each in link.holders() if isinstance(each, DescriptorHolder)] == [
            holder.pid
        ]
    assert holder.returncode == -signal.SIGKILL
    assert stage.ran() == NONE
    assert link.id not in link_ids()


@full_row
def test_killed_holder_of_pinned(link: Link, stage: Stage, pin: Path) -> None:
    """A pin keeps it when the last process that holds it is killed."""
    link.pin(pin)
    with holding_process(link):
        link.destroy()
    assert stage.ran() == FIRST
    assert set(link.holders()) == {PinHolder(pin)}


@full_row
def test_disconnect(link: Link, stage: Stage) -> None:
    """Destroyed after disconnect it stays attached, until its descriptor is closed."""
    link.disconnect()
    link.destroy()
    assert stage.ran() == FIRST
    link.close()
    assert stage.ran() == NONE


@full_row
def test_object_closed(stage: Stage) -> None:
    """It keeps its program, or its map, when nothing else does: then what it is on goes last."""
    loaded = stage.renew()
    link = stage.attach()
    info = link.info
    kept = [("prog", info.prog_id)] if info.prog_id else []
    # A map that it is attached to is its target's end in no case.
    targets = (stage.target, stage.first)
    kept += [("map", target.id) for target in targets if isinstance(target, Map)]
    assert kept
    loaded.close()
    assert all(exists(*one) for one in kept)
    assert link.info == info

    link.destroy()
    eventually(lambda: not any(exists(*one) for one in kept), what=f"{kept} are gone")
