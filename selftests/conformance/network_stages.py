"""Stages on namespaces, devices and maps of sockets, and packets that make their programs run."""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pytest_bpflink import Map, NetNs, XdpFlags
from pytest_bpflink.selftests.conformance.stages import LOCAL, Stage
from pytest_bpflink.selftests.support.witness import datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from pytest_bpflink import Device

_ALL = b"\xff" * 6
_SENDER = b"\2" * 6
_REST = b"\x88\xb5" + bytes(46)  # the EtherType that the programs count, and padding

SKB_MODE = {"flags": XdpFlags.SKB_MODE}
DRV_MODE = {"flags": XdpFlags.DRV_MODE}


class InNetNs(Stage):
    """A network namespace, and a datagram that passes its loopback.

    Its socket is opened once: closing one that sends frames waits for a grace period of RCU.
    """

    source = "net"

    @cached_property
    def netns(self) -> NetNs:
        """A namespace for all tests, or the stage's own."""
        return self.place("netns", lambda undo: undo.enter_context(NetNs.create()))

    @cached_property
    def target(self) -> object:
        """The namespace."""
        return self.netns

    def sending(self) -> contextlib.AbstractContextManager[Callable[[], object]]:
        """Give a function that sends a datagram.

        To its own socket: an ICMP message about a closed port would be counted as well.
        """
        return datagram_sender(self.netns)

    @cached_property
    def _sockets(self) -> contextlib.ExitStack:
        return self._undo.enter_context(contextlib.ExitStack())

    @cached_property
    def _send(self) -> Callable[[], object]:
        return self._sockets.enter_context(self.sending())

    def trigger(self) -> None:
        """Send a packet."""
        self._send()

    def end_target(self) -> None:
        """Close the namespace, which nothing else holds."""
        self._sockets.close()
        self.netns.close()


class Dissected(InNetNs):
    """A network namespace, and a raw packet, whose headers the kernel dissects."""

    def sending(self) -> contextlib.AbstractContextManager[Callable[[], object]]:
        """Give a function that sends a raw packet over the loopback."""
        return frame_sender(self.netns.lo)


class OnDevice(InNetNs):
    """A device of a pair, and a frame that one of the two sends."""

    def __init__(
        self,
        request: pytest.FixtureRequest,
        program: str,
        *,
        kind: str = "veth",
        sender: int,
        **options: Any,
    ) -> None:
        super().__init__(request, program, **options)
        self._pair: tuple[Device, Device] = self.place(kind, lambda _: getattr(self.netns, kind)())
        self.device = self._pair[0]
        self.sender = self._pair[sender]

    @cached_property
    def target(self) -> object:
        """The first of the pair."""
        return self.device

    def sending(self) -> contextlib.AbstractContextManager[Callable[[], object]]:
        """Give a function that sends a frame."""
        return frame_sender(self.sender)

    def end_target(self) -> None:
        """Remove the pair."""
        self.device.remove()


class OnDummy(InNetNs):
    """A dummy device, which receives what one macvlan on it sends to another."""

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self.device: Device = self.place("dummy", lambda _: self.netns.dummy())
        self._macvlans: tuple[Device, Device] = self.place(
            "macvlans", lambda _: self.netns.macvlans(self.device)
        )

    @cached_property
    def target(self) -> object:
        """The dummy."""
        return self.device

    def sending(self) -> contextlib.AbstractContextManager[Callable[[], object]]:
        """Give a function that sends a frame from one macvlan to the other."""
        near, far = self._macvlans
        return frame_sender(near, to=far)

    def end_target(self) -> None:
        """Remove the dummy, and with it the macvlans on it."""
        self.device.remove()


class Sockets(Stage):
    """A map of sockets, and a connection, one end of which is put into the map."""

    source = "sockmap"

    def __init__(self, request: pytest.FixtureRequest, program: str, *, sends: bool) -> None:
        super().__init__(request, program)
        self._sends = sends

    @cached_property
    def target(self) -> Map:
        """The map, without a socket yet."""
        return self.object.map("sockets")

    def twin(self) -> Stage:
        """Attach to another map."""
        other = super().twin()
        other.target = self.object.map("others")
        return other

    def trigger(self) -> None:
        """Send through a new socket: the map applies its programs to a socket when it is added."""
        with (
            socket.create_server((LOCAL, 0)) as server,
            socket.create_connection(server.getsockname()) as near,
            server.accept()[0] as far,
        ):
            inside, outside = near, far
            self.target[bytes(4)] = struct.pack("=I", inside.fileno())
            sender, receiver = (inside, outside) if self._sends else (outside, inside)
            sender.sendall(b"bpflink")
            receiver.settimeout(1)
            receiver.recv(16)
            del self.target[bytes(4)]  # lest the program run for what closing sends


@contextlib.contextmanager
def datagram_sender(netns: NetNs) -> Iterator[Callable[[], object]]:
    """Give a function that sends a datagram from a socket to itself."""
    with netns.entered():
        own = datagram_socket()
    with own:
        own.bind((LOCAL, 0))
        address = own.getsockname()

        def send() -> None:
            own.sendto(b"bpflink", address)
            own.recv(16)  # on a busy machine the datagram may come after sendto() returns

        yield send


def send_frame(device: Device) -> None:
    """Broadcast a frame of the EtherType that the programs count."""
    with frame_sender(device) as send:
        send()


@contextlib.contextmanager
def frame_sender(device: Device, *, to: Device | None = None) -> Iterator[Callable[[], object]]:
    """Give a function that sends such a frame, to another device's address or to all."""
    with device.netns.entered():
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sender:
        if to:
            sender.bind((to.name, 0))
        address = sender.getsockname()[4] if to else _ALL
        sender.bind((device.name, 0))
        yield partial(sender.send, address + _SENDER + _REST)
