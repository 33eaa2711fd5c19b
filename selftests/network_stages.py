"""Network namespaces, devices and sockets, and the packets that make their programs run."""

from __future__ import annotations

import socket
import struct
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_bpflink import Map, NetNs, XdpFlags
from pytest_bpflink.selftests.stages import LOCAL, Stage
from pytest_bpflink.selftests.witness import datagram_socket

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import Device

_Place = TypeVar("_Place")

_ALL = b"\xff" * 6
_SENDER = b"\2" * 6
_REST = b"\x88\xb5" + bytes(46)  # the programs' own EtherType

SKB_MODE = {"flags": XdpFlags.SKB_MODE}
DRV_MODE = {"flags": XdpFlags.DRV_MODE}


class InNetNs(Stage):
    """A network namespace, and a datagram that passes its loopback."""

    source = "net"

    @cached_property
    def netns(self) -> NetNs:
        """One for all tests, or the stage's own."""
        return self.place("netns", lambda undo: undo.enter_context(NetNs.create()))

    def place(self, name: str, make: Callable[[contextlib.ExitStack], _Place]) -> _Place:
        """Make something for all tests that ask for its name, or for this one alone."""
        if "own_target" in self.request.fixturenames:
            return make(self._undo)
        places: dict[str, Any] = self.request.getfixturevalue("places")
        if name not in places:
            places[name] = make(places["undo"])
        made: _Place = places[name]
        return made

    @cached_property
    def target(self) -> object:
        """The namespace."""
        return self.netns

    def trigger(self) -> None:
        """Send a datagram to oneself: an ICMP message about a closed port is seen as well."""
        with self.netns.entered(), datagram_socket() as own:
            own.bind((LOCAL, 0))
            own.sendto(b"bpflink", own.getsockname())
            own.recv(16)  # on a busy machine it may come later than sendto() returns

    def end_target(self) -> None:
        """Let go of the namespace, which nobody else holds."""
        self.netns.close()


class Dissected(InNetNs):
    """A network namespace, and a raw packet, whose headers the kernel looks for."""

    def trigger(self) -> None:
        """Send a raw packet over the loopback."""
        send_frame(self.netns.lo)


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

    def trigger(self) -> None:
        """Send a frame."""
        send_frame(self.sender)

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

    def trigger(self) -> None:
        """Send a frame from the one to the other."""
        sender, receiver = self._macvlans
        send_frame(sender, to=receiver)

    def end_target(self) -> None:
        """Remove the dummy, and with it what is on it."""
        self.device.remove()


class Sockets(Stage):
    """A map of sockets, and a connection of which one end is put into it."""

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
        """Put a new socket into the map, since one takes the programs of that moment along."""
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
            del self.target[bytes(4)]  # or what is sent at closing is seen as well


def send_frame(device: Device, *, to: Device | None = None) -> None:
    """Send a frame of the programs' own EtherType from a device, to another's address or to all."""
    with (
        device.netns.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        if to:
            sender.bind((to.name, 0))
        address = sender.getsockname()[4] if to else _ALL
        sender.bind((device.name, 0))
        sender.send(address + _SENDER + _REST)
