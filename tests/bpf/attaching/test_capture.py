"""Packets that devices receive and send, and pairs of devices that can talk."""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Direction, NetNs, PacketsLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Capture, Device, Link, Object

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


@pytest.fixture(params=FAMILIES)
def version(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    if kind == "ipv6" and not socket.has_ipv6:
        pytest.skip("Python was built without IPv6")
    return kind


def send(near: Device, far: Device, data: bytes, version: str = "ipv4") -> bytes:
    """Send a datagram from one device to the address of another, and return what arrived."""
    with far.netns.entered():
        receiver = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
    with near.netns.entered():
        sender = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((getattr(far, version), 0))
        receiver.settimeout(10)
        sender.bind((getattr(near, version), 0))
        sender.sendto(data, receiver.getsockname())
        arrived, sender_address = receiver.recvfrom(100)
        assert sender_address[0] == getattr(near, version)
        return arrived


def test_ends_talk_over_the_pair(netns: NetNs, version: str) -> None:
    near, far = netns.veth(addresses=True)
    assert near.netns.ino == netns.ino != far.netns.ino
    with near.capture() as nears, far.capture() as fars:
        assert send(near, far, b"there", version) == b"there"
        assert send(far, near, b"back", version) == b"back"
    assert [packet.direction.name for packet in nears] == ["EGRESS", "INGRESS"]
    received = list(fars)
    assert [packet.direction.name for packet in received] == ["INGRESS", "EGRESS"]
    assert [packet[-4:] for packet in received] == [b"here", b"back"]


def test_program_on_either_end_sees_the_packet(
    netns: NetNs, bpf_object: Callable[..., Object], bpf_link: Callable[..., Link]
) -> None:
    near, far = netns.veth(addresses=True)
    loaded = bpf_object("progs/classic.bpf.c")
    bpf_link(loaded.program("count"), far)
    near.tc_attach(loaded.program("classify"), direction=Direction.EGRESS)
    send(near, far, b"x")
    assert loaded.bss["turns"] == 2


def test_pair_is_quiet(netns: NetNs) -> None:
    """No ARP, no neighbour or router discovery, no report of a group: what is seen was sent."""
    near, far = netns.veth(addresses=True)
    with near.capture() as nears, far.capture() as fars:
        with pytest.raises(AssertionError, match=r"no packet on <Device veth0a, .* within 1.5 s"):
            nears.next(within=1.5)
        send(near, far, b"x")
    assert (len(list(nears)), len(list(fars))) == (1, 1)


def test_each_pair_has_addresses_of_its_own(netns: NetNs) -> None:
    pairs = [netns.veth(addresses=True) for _ in range(2)]
    assert len({device.ipv4 for pair in pairs for device in pair}) == 4
    for near, far in pairs:
        assert send(near, far, b"x") == b"x"


def test_second_namespace_is_closed_with_the_first() -> None:
    with NetNs.create() as netns:
        _, far = netns.veth(addresses=True)
        far.netns.fileno()
    with pytest.raises(BpfError) as raised:
        far.netns.fileno()
    assert raised.value.errno == errno.EBADF


def test_device_without_an_address(netns: NetNs) -> None:
    near, _ = netns.veth()
    with pytest.raises(BpfError, match="read the IPv4 address of <Device veth0a") as raised:
        _ = near.ipv4
    assert raised.value.errno == errno.EADDRNOTAVAIL
    # It has a link-local one by now or soon.
    with pytest.raises(BpfError, match="read the IPv6 address of <Device veth0a"):
        _ = near.ipv6
    assert netns.lo.ipv4 == "127.0.0.1"


def test_next_waits_for_a_packet(netns: NetNs) -> None:
    near, far = netns.veth(addresses=True)
    with far.capture() as capture:
        before = time.time()
        send(near, far, b"payload")
        packet = capture.next()
        assert before <= packet.time <= time.time()
        assert packet.direction is Direction.INGRESS
        assert packet[12:14] == b"\x08\x00"
        assert packet.endswith(b"payload")
        assert isinstance(packet, bytes)
        with pytest.raises(AssertionError, match="within 0 s"):
            capture.next(within=0)


def test_packets_before_and_after_are_not_captured(netns: NetNs) -> None:
    near, far = netns.veth(addresses=True)
    send(near, far, b"before")
    with far.capture() as capture:
        send(near, far, b"while it is open")
    send(near, far, b"after")
    assert [packet[-4:] for packet in capture] == [b"open"]
    with pytest.raises(AssertionError, match="no packet"):
        capture.next()
    capture.close()


def test_vlan_tag_is_in_its_place(netns: NetNs) -> None:
    """The kernel keeps a tag beside the packet."""
    near, far = netns.veth()
    frame = b"\xff" * 6 + b"\2" * 6 + b"\x81\x00\x00\x07" + b"\x88\xb5" + b"tagged".ljust(46, b"\0")
    with near.netns.entered():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    with sender, far.capture() as capture:
        sender.bind((near.name, 0))
        sender.send(frame)
        # The device's own packets may come first; a veth's come when the kernel has time.
        while capture.next(within=10) != frame:
            pass


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some packets fill the room where packets wait."""
    monkeypatch.setattr("pytest_bpflink.bpf.attaching.capture._ROOM", 2048)


def send_fifty(netns: NetNs, *, allow_lost: bool = False) -> Capture:
    near, far = netns.veth(addresses=True)
    with far.capture(allow_lost=allow_lost) as capture:
        for _ in range(50):
            send(near, far, b"x" * 50)
    return capture


@pytest.mark.usefixtures("no_room")
def test_lost_packets_are_told(netns: NetNs) -> None:
    said = r"capture packets on .*: ENOBUFS .* \d+ packets are lost: read more"
    with pytest.raises(PacketsLost, match=said) as told:
        send_fifty(netns)
    assert 0 < told.value.lost < 50


@pytest.mark.usefixtures("no_room")
def test_lost_packets_are_counted(netns: NetNs) -> None:
    capture = send_fifty(netns, allow_lost=True)
    assert len(list(capture)) + capture.lost == 50
    assert capture.lost > 0


@pytest.mark.usefixtures("no_room")
def test_lost_packets_are_told_where_packets_are_read(netns: NetNs) -> None:
    near, far = netns.veth(addresses=True)
    with far.capture() as capture:
        for _ in range(50):
            send(near, far, b"x" * 50)
        with pytest.raises(PacketsLost):
            capture.next()
        assert capture.next().endswith(b"x" * 50)
        lost = capture.lost
        assert lost == capture.lost > 0


def test_ten_thousand_packets(netns: NetNs) -> None:
    """They wait in the kernel until they are read."""
    near, far = netns.veth(addresses=True)
    with near.netns.entered():
        sender = socket.socket(type=socket.SOCK_DGRAM)
    address = far.ipv4, 9  # nobody listens: each answer is an ICMP packet, unless they are too many
    # The sender's end: on the other one a busy kernel drops packets before they are seen.
    with sender, near.capture() as capture:
        for _ in range(10_000):
            sender.sendto(b"x", address)
    assert sum(packet.direction is Direction.EGRESS for packet in capture) == 10_000
    assert capture.lost == 0


def test_device_goes_down_or_away(netns: NetNs) -> None:
    near, far = netns.veth(addresses=True)
    with far.capture() as capture:
        send(near, far, b"x")
        far.down()
        assert len(list(capture)) == 1
        near.remove()
        assert list(capture) == []
    with pytest.raises(BpfError, match=r"capture packets on .*: ENXIO") as raised:
        far.capture()
    assert raised.value.errno == errno.ENXIO
