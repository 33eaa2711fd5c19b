"""Network namespaces and their devices."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Device, NetNs

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Object

_SIOCGIFFLAGS, _SIOCSIFNAME, _IFF_UP = 0x8913, 0x8923, 1

_LOCAL = ("127.0.0.1", 9)


def test_fresh_namespace_has_lo_up(netns: NetNs) -> None:
    """Datagrams pass its loopback, and the process is in another namespace."""
    assert netns.ino != _own_inode()
    with netns.entered(), _datagrams() as sender:
        assert sender.sendto(b"x", _LOCAL) == 1
        assert [name for _, name in socket.if_nameindex() if name == "lo"] == ["lo"]


def test_lo_down(netns: NetNs) -> None:
    """While its loopback is down a namespace's datagrams go nowhere."""
    with netns.entered(), _datagrams() as sender, _datagrams() as receiver:
        receiver.bind(("127.0.0.1", 0))
        netns.lo.down()
        with contextlib.suppress(OSError):  # some kernels have no route then
            sender.sendto(b"lost", receiver.getsockname())
        netns.lo.up()
        sender.sendto(b"kept", receiver.getsockname())
        assert receiver.recv(10) == b"kept"


def test_renamed_device(netns: NetNs) -> None:
    """A device is found by its index: its name may have gone to another device."""
    first, second = netns.veth()
    with netns.entered():
        for device in (first, second):
            device.down()
        _rename(first.name, "former")
        _rename(second.name, first.name)
        second.up()
        first.up()
        first.down()
        assert not _is_up("former")
        assert _is_up(first.name)


def test_entered_goes_back(netns: NetNs) -> None:
    """A thread is back home after the block, whatever happened in it, and blocks nest."""
    home = _own_inode()
    with NetNs.create() as other, netns.entered():
        assert _own_inode() == netns.ino
        with pytest.raises(ZeroDivisionError), other.entered():
            _ = other.ino == _own_inode() and 1 / 0
        assert _own_inode() == netns.ino
    assert _own_inode() == home


def test_closed_namespace() -> None:
    """Closing twice is fine, entering afterwards is EBADF."""
    netns = NetNs.create()
    netns.close()
    netns.close()
    with pytest.raises(BpfError) as refused, netns.entered():
        pytest.fail("entered a closed namespace")
    assert refused.value.errno == errno.EBADF


def test_veth(netns: NetNs) -> None:
    """One end receives the frames that the other sends; an index names each in the namespace."""
    near, far = netns.veth()
    assert near.ifindex != far.ifindex
    with netns.entered(), _packets(near) as sender, _packets(far) as receiver:
        assert socket.if_nametoindex(near.name) == near.ifindex
        frame = b"\xff" * 6 + b"\2" * 6 + b"\x88\xb5" + b"bpflink".ljust(46, b"\0")
        sender.send(frame)
        receiver.settimeout(1)
        assert receiver.recv(100) == frame


def test_removed_device(netns: NetNs) -> None:
    """Removing one end of a pair removes the other; later operations on them are ENODEV."""
    near, far = netns.veth()
    near.remove()
    for failing in (near.remove, far.up, lambda: netns.device(far.name)):
        with pytest.raises(BpfError) as refused:
            failing()
        assert refused.value.errno == errno.ENODEV


def test_refused_device(netns: NetNs) -> None:
    """The error names the device, the namespace and the errno."""
    with pytest.raises(BpfError, match=f"make a veth device in <NetNs {netns.ino}>: EEXIST"):
        netns._make("veth", "lo")


def test_target_of_the_wrong_kind(
    netns: NetNs, bpf_object: Callable[..., Object], bpf_link: Callable[..., object]
) -> None:
    """The error says what the program attaches to."""
    program = bpf_object("../../../selftests/progs/cgroup_egress.bpf.c").program("egress")
    for target in (netns, netns.lo, None):
        with pytest.raises(BpfError, match="attaches to a Cgroup") as refused:
            bpf_link(program, target)
        assert refused.value.errno == errno.EINVAL


def _datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _packets(device: Device) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
    raw.bind((device.name, 0x88B5))
    return raw


def _own_inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def _rename(name: str, new: str) -> None:
    with _datagrams() as control:
        fcntl.ioctl(control, _SIOCSIFNAME, struct.pack("16s16s8x", name.encode(), new.encode()))


def _is_up(name: str) -> bool:
    with _datagrams() as control:
        asked = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
    return bool(struct.unpack("16xH22x", asked)[0] & _IFF_UP)
