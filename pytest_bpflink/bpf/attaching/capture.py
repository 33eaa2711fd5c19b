"""Packets that a device receives and sends, through packet(7)."""

from __future__ import annotations

import errno
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from pytest_bpflink.binding.uapi import Direction
from pytest_bpflink.errors import BpfError, PacketsLost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.handles import DeviceHandle

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_AUXDATA = 263, 6, 8
_PACKET_OUTGOING = 4
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35

_STATISTICS = struct.Struct("=II")  # struct tpacket_stats
_TIMESPEC = struct.Struct("@ll")
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40
_ETH_P_8021Q = 0x8100
_MAC_ADDRESSES = 12

# The kernel takes memory for packets that wait, not for room.
_ROOM = 64 << 20
# Packets that are yet to be segmented are larger than the device's MTU: up to 512 KiB (BIG TCP).
_LARGEST = 1 << 20


class Packet(bytes):
    """A packet as its device has it, with its link-layer header: bytes, so that scapy takes it."""

    direction: Direction = Direction.INGRESS
    """INGRESS of a packet that the device received, EGRESS of one that it sent."""

    time: float = 0.0
    """When the kernel saw the packet, in seconds since 1970."""

    def __repr__(self) -> str:
        return f"<Packet {self.direction.name}, {len(self)} bytes: {self.hex()}>"


class Capture:
    """The packets that a device receives and sends until the end of a `with` block.

    An iteration takes the packets that are there, and ends; `next()` waits for one. Each packet is
    taken once; those that are left at the end of the block can be taken after it.

    It sees packets where tcpdump does: after XDP and before tc when they are received, and after tc
    when they are sent. Checksums that the device would compute are not there yet.

    No packet is lost unseen: `PacketsLost` is raised where packets are read, or at the end of the
    block, unless `capture()` was given `allow_lost=True`.
    """

    def __init__(self, device: DeviceHandle, *, allow_lost: bool = False) -> None:
        self._name = str(device)
        self._allow_lost = allow_lost
        self._pending: deque[Packet] = deque()
        self._buffer = bytearray(_LARGEST)
        self._lost = self._told = 0
        self._socket: socket.socket | None = _open(device)

    @property
    def lost(self) -> int:
        """How many packets the kernel has dropped because too many were waiting, of 64 MiB."""
        self._take()
        return self._lost

    def next(self, *, within: float = 1.0) -> Packet:
        """Return the next packet; wait for it for so many seconds at most.

        Raises `AssertionError` if none comes, and `PacketsLost`.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + within
        while not self._fetch():
            left = deadline - time.monotonic()
            if left <= 0 or self._socket is None:
                raise AssertionError(f"no packet on {self._name} within {within:g} s")
            # The timeout is in milliseconds; rounded up, so that it does not become 0.
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.poll(int(left * 1000) + 1)
        return self._pending.popleft()

    def close(self) -> None:
        """End capturing; idempotent."""
        if self._socket is not None:
            self._take()
            self._socket.close()
            self._socket = None

    def __iter__(self) -> Iterator[Packet]:
        """Take the packets that are there, and end. Raises as `next()` does."""
        while self._fetch():
            yield self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        __tracebackhide__ = True
        self.close()
        if self._lost <= self._told or self._allow_lost:
            return
        if error is None:
            raise PacketsLost(self._name, self._lost)
        error.add_note(str(PacketsLost(self._name, self._lost)))

    def __del__(self) -> None:
        if getattr(self, "_socket", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<Capture on {self._name}{' closed' if self._socket is None else ''}>"

    def _fetch(self) -> bool:
        """Take more packets; whether there are any. Raises `PacketsLost` for what wasn't told."""
        __tracebackhide__ = True
        self._take()
        if self._lost > self._told and not self._allow_lost:
            self._told = self._lost
            raise PacketsLost(self._name, self._lost)
        return bool(self._pending)

    def _take(self) -> None:
        if self._socket is None:
            return
        while True:
            try:
                packet = _receive(self._socket, self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                # Told once when the device goes down, or is removed. Then no more packets come.
                if error.errno not in {errno.ENETDOWN, errno.ENODEV, errno.ENXIO}:
                    raise
                continue
            self._pending.append(packet)
        # Reading the numbers clears them.
        counted = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
        self._lost += _STATISTICS.unpack(counted)[1]


def _open(device: DeviceHandle) -> socket.socket:
    doing = f"capture packets on {device}"
    with device.netns.entered():
        try:
            # Protocol 0 receives nothing until the socket is bound to the device.
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except OSError as error:
            hint = "the kernel has no CONFIG_PACKET" if error.errno == errno.EAFNOSUPPORT else ""
            raise BpfError(error.errno or 0, doing, hint=hint) from error
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            made.bind((socket.if_indextoname(device.ifindex), _ETH_P_ALL))
        except OSError as error:
            made.close()
            raise BpfError(error.errno or errno.ENODEV, doing) from error
        return made


def _receive(from_: socket.socket, buffer: bytearray) -> Packet:
    size, ancillary, _, address = from_.recvmsg_into([buffer], 256)
    data, at = bytes(memoryview(buffer)[:size]), 0.0
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(content)
            at = seconds + nanoseconds / 1e9
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            data = _with_vlan_tag(data, content)
    packet = Packet(data)
    packet.time = at
    packet.direction = Direction.EGRESS if address[2] == _PACKET_OUTGOING else Direction.INGRESS
    return packet


def _with_vlan_tag(data: bytes, auxdata: bytes) -> bytes:
    """Return the packet with its VLAN tag, which the kernel keeps beside the data."""
    status, _, _, _, _, tci, tpid = _AUXDATA.unpack(auxdata)
    if not status & _VLAN_VALID:
        return data
    tag = struct.pack("!HH", tpid if status & _VLAN_TPID_VALID else _ETH_P_8021Q, tci)
    return data[:_MAC_ADDRESSES] + tag + data[_MAC_ADDRESSES:]
