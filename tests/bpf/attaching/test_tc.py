"""Classic tc filters: the legacy way to attach, beside tcx, and gone with their namespace."""

from __future__ import annotations

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, Direction, NetNs, Object
from pytest_bpflink.introspection.tc_filters import programs_in_filters

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfLedger, Device, Link, Program, TcFilter

PROGRAMS = Path(__file__).parent / "progs/classic.bpf.c"


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/classic.bpf.c")


def send(device: Device) -> bool:
    """Send a datagram through the loopback device; whether it arrived."""
    with (
        device.netns.entered(),
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        sender.sendto(b"x", receiver.getsockname())
        try:
            return receiver.recv(10) == b"x"
        except BlockingIOError:
            return False


def filters(device: Device) -> list[tuple[str, int]]:
    """Return the side and the program of each filter; each priority is told with program 0, too."""
    with device.netns.entered():
        return [each for each in programs_in_filters(device.ifindex) if each[1]]


def has_clsact(device: Device) -> bool:
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

    with device.netns.entered(), IPRoute() as route:
        return "clsact" in {
            each.get_attr("TCA_KIND") for each in route.get_qdiscs(index=device.ifindex)
        }


@pytest.mark.parametrize("direction", Direction)
def test_runs_until_it_is_detached(loaded: Object, netns: NetNs, direction: Direction) -> None:
    program = loaded.program("drop")
    with netns.lo.tc_attach(program, direction=direction) as attached:
        assert filters(netns.lo) == [(direction.name.lower(), program.id)]
        assert not send(netns.lo)
        assert loaded.bss["turns"] == 1
    assert send(netns.lo)
    assert loaded.bss["turns"] == 1
    assert filters(netns.lo) == []
    attached.detach()


def test_kernel_chooses_priority_and_handle(loaded: Object, netns: NetNs) -> None:
    program = loaded.program("classify")
    chosen = netns.lo.tc_attach(program, direction=Direction.INGRESS)
    assert (chosen.priority > 0, chosen.handle) == (True, 1)
    given = netns.lo.tc_attach(program, direction=Direction.INGRESS, priority=7, handle=3)
    assert (given.priority, given.handle, given.direction) == (7, 3, Direction.INGRESS)
    with pytest.raises(BpfError, match="priority 7 has a filter with handle 3 already") as raised:
        netns.lo.tc_attach(program, direction=Direction.INGRESS, priority=7, handle=3)
    assert raised.value.errno == errno.EEXIST


def test_lowest_priority_is_first(loaded: Object, netns: NetNs) -> None:
    """A program that decides nothing leaves the packet to the next."""
    netns.lo.tc_attach(loaded.program("classify_too"), direction=Direction.INGRESS, priority=20)
    netns.lo.tc_attach(loaded.program("classify"), direction=Direction.INGRESS, priority=10)
    assert send(netns.lo)
    assert (loaded.bss["classic"], loaded.bss["second"], loaded.bss["turns"]) == (1, 2, 2)


@pytest.mark.bpf_requires("link:tcx", since="6.6", libbpf="1.3")
def test_tcx_is_first(
    bpf_object: Callable[..., Object], bpf_link: Callable[..., Link], netns: NetNs
) -> None:
    loaded = bpf_object("progs/classic.bpf.c", only=["classify", "first"])
    netns.lo.tc_attach(loaded.program("classify"), direction=Direction.INGRESS, priority=1)
    link = bpf_link(loaded.program("first"), netns.lo)
    assert send(netns.lo)
    assert (loaded.bss["by_tcx"], loaded.bss["classic"], loaded.bss["turns"]) == (1, 2, 2)
    link.destroy()
    assert send(netns.lo)
    assert (loaded.bss["by_tcx"], loaded.bss["classic"]) == (1, 3)


def test_qdisc_that_was_made_goes_with_its_last_filter(loaded: Object, netns: NetNs) -> None:
    program = loaded.program("classify")
    first = netns.lo.tc_attach(program, direction=Direction.INGRESS)
    second = netns.lo.tc_attach(program, direction=Direction.EGRESS)
    first.detach()
    assert has_clsact(netns.lo)
    assert filters(netns.lo) == [("egress", program.id)]
    second.detach()
    assert not has_clsact(netns.lo)


def test_qdisc_of_others_stays(loaded: Object, netns: NetNs) -> None:
    from pyroute2 import IPRoute

    with netns.entered(), IPRoute() as route:
        route.tc("add", "clsact", netns.lo.ifindex)
    netns.lo.tc_attach(loaded.program("classify"), direction=Direction.INGRESS).detach()
    assert has_clsact(netns.lo)


def test_filter_goes_when_its_namespace_is_closed(loaded: Object) -> None:
    """It does so though another descriptor keeps the namespace."""
    with NetNs.create() as netns, netns.entered(), NetNs.current() as kept:
        netns.lo.tc_attach(loaded.program("drop"), direction=Direction.INGRESS)
        assert not send(kept.lo)
        netns.close()
        assert filters(kept.lo) == []
        assert send(kept.lo)


def test_filter_that_somebody_removed(loaded: Object, netns: NetNs) -> None:
    from pyroute2 import IPRoute

    attached = netns.lo.tc_attach(loaded.program("drop"), direction=Direction.INGRESS)
    with netns.entered(), IPRoute() as route:
        route.tc("del", "clsact", netns.lo.ifindex)
    with pytest.raises(BpfError, match="detach drop to <Device lo, 1 in") as raised:
        attached.detach()
    assert raised.value.errno == errno.EINVAL
    attached.detach()


def test_device_that_is_gone(loaded: Object, netns: NetNs) -> None:
    near, _ = netns.veth()
    attached = near.tc_attach(loaded.program("drop"), direction=Direction.INGRESS)
    near.remove()
    with pytest.raises(BpfError, match="by a tc filter: ENODEV") as raised:
        attached.detach()
    assert raised.value.errno == errno.ENODEV
    with pytest.raises(BpfError, match=r"make a clsact qdisc on .*: ENODEV"):
        near.tc_attach(loaded.program("drop"), direction=Direction.INGRESS)


def test_filter_that_is_left_is_told(netns: NetNs, bpf_ledger: BpfLedger) -> None:
    """The program's object is closed, and the filter alone keeps the program."""
    with bpf_ledger.watch() as watch, Object.open(PROGRAMS).load() as loaded:
        left = netns.lo.tc_attach(loaded.program("classify"), direction=Direction.INGRESS)
    said = (
        r"program \d+ \(SCHED_CLS classify\), held by the attachment to device lo in netns"
        rf" {netns.ino} \(tc filter, ingress\)"
    )
    with pytest.raises(AssertionError, match=said):
        watch.assert_nothing_left(within=0.1)
    left.detach()
    watch.assert_nothing_left()


def test_wrong_arguments(loaded: Object, netns: NetNs) -> None:
    attach: Callable[..., TcFilter] = netns.lo.tc_attach
    program: Program = loaded.program("classify")
    wrong: list[tuple[Any, Any, str]] = [
        (loaded, Direction.INGRESS, "it takes a Program, not <Object classic.bpf.c loaded>"),
        (loaded.program("count"), Direction.INGRESS, r'a program in SEC\("tc"\), .* is of XDP'),
        (program, "ingress", "direction is Direction.INGRESS or EGRESS, not 'ingress'"),
    ]
    for given, direction, said in wrong:
        with pytest.raises(TypeError, match=said):
            attach(given, direction=direction)
    assert filters(netns.lo) == []
