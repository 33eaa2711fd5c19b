"""Links of any type: what keeps one attached.

That a program runs is seen from its counter when the test triggers it. That the kernel accepts an
operation is never taken for the operation's effect.
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
    """A program runs while a descriptor of its link is held; the last close ends program and id.

    The link's info names its type, its program and its target.
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
    """A program is attached a second time, and anew when its links are gone, if the row says so."""
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
    """A program with links to two targets runs for each target while the link to it is held."""
    assert stage.ran() == FIRST
    other = stage.twin()
    assert outcome("attach to another target too", other.attach) == OK
    assert other.ran() == FIRST
    link.destroy()
    assert other.ran() == FIRST


@every_row
def test_pin(link: Link, stage: Stage, pin: Path) -> None:
    """A pinned link outlives its descriptor, and opening the pin gives the same link."""
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
    """Either of two pins in two BPF file systems keeps a link without the other."""
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
    """Each descriptor keeps a link without the others: a duplicate, one in flight, one by id."""
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
    """A link ends when the process that holds its last descriptor is killed."""
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
    """A pin keeps a link when the last process that holds a descriptor is killed."""
    link.pin(pin)
    with holding_process(link):
        link.destroy()
    assert stage.ran() == FIRST
    assert set(link.holders()) == {PinHolder(pin)}


@full_row
def test_disconnect(link: Link, stage: Stage) -> None:
    """A disconnected link that is destroyed stays attached until its descriptor is closed."""
    link.disconnect()
    link.destroy()
    assert stage.ran() == FIRST
    link.close()
    assert stage.ran() == NONE


@full_row
def test_object_closed(stage: Stage) -> None:
    """A link keeps its program and its maps when their object is closed; they end after it."""
    loaded = stage.renew()
    link = stage.attach()
    info = link.info
    kept = [("prog", info.prog_id)] if info.prog_id else []
    # If the target is a map, the link keeps it as well: closing it does not end the target.
    targets = (stage.target, stage.first)
    kept += [("map", target.id) for target in targets if isinstance(target, Map)]
    assert kept
    loaded.close()
    assert all(exists(*one) for one in kept)
    assert link.info == info

    link.destroy()
    eventually(lambda: not any(exists(*one) for one in kept), what=f"{kept} are gone")
