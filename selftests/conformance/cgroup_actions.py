"""Actions that make the hooks of a cgroup run: one for each attach type."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_HOSTS: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_ABSTRACT = "\0pytest-bpflink"


def _make_socket() -> None:
    _udp(socket.AF_INET).close()


def _udp(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


def _bind(family: int) -> None:
    with _udp(family) as bound:
        bound.bind((_HOSTS[family], 0))


def _connect(family: int) -> None:
    with _udp(family) as connected:
        connected.connect((_HOSTS[family], 9))


def _send(family: int) -> None:
    with _udp(family) as sender:
        sender.sendto(b"bpflink", (_HOSTS[family], 9))


def _receive(family: int) -> None:
    with _udp(family) as own:
        own.bind((_HOSTS[family], 0))
        own.sendto(b"bpflink", own.getsockname())
        own.recvfrom(16)


def _ask_peer(family: int) -> None:
    with _udp(family) as connected:
        connected.connect((_HOSTS[family], 9))
        connected.getpeername()


def _ask_name(family: int) -> None:
    with _udp(family) as bound:
        bound.bind((_HOSTS[family], 0))
        bound.getsockname()


def _unix(action: Callable[[socket.socket, socket.socket], object]) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far,
    ):
        far.bind(f"{_ABSTRACT}-{os.getpid()}")
        near.bind(f"{_ABSTRACT}-{os.getpid()}-near")
        action(near, far)


def _unix_connect(near: socket.socket, far: socket.socket) -> None:
    near.connect(far.getsockname())


def _unix_send(near: socket.socket, far: socket.socket) -> None:
    near.sendto(b"bpflink", far.getsockname())


def _unix_receive(near: socket.socket, far: socket.socket) -> None:
    near.sendto(b"bpflink", far.getsockname())
    far.recvfrom(16)


def _unix_ask_peer(near: socket.socket, far: socket.socket) -> None:
    near.connect(far.getsockname())
    near.getpeername()


def _unix_ask_name(_near: socket.socket, far: socket.socket) -> None:
    far.getsockname()


def _read_sysctl() -> None:
    with open("/proc/sys/kernel/ostype", "rb") as file:
        file.read()


def _get_option() -> None:
    with _udp(socket.AF_INET) as asked:
        asked.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def _set_option() -> None:
    with _udp(socket.AF_INET) as changed:
        changed.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)


def _open_device() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY))


def _connect_tcp() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        pass


_4, _6 = socket.AF_INET, socket.AF_INET6

ACTIONS: dict[str, Callable[[], None]] = {
    "ingress": partial(_receive, _4),
    "egress": partial(_send, _4),
    "sock_create": _make_socket,
    "sock_release": _make_socket,
    "post_bind4": partial(_bind, _4),
    "post_bind6": partial(_bind, _6),
    "bind4": partial(_bind, _4),
    "bind6": partial(_bind, _6),
    "connect4": partial(_connect, _4),
    "connect6": partial(_connect, _6),
    "sendmsg4": partial(_send, _4),
    "sendmsg6": partial(_send, _6),
    "recvmsg4": partial(_receive, _4),
    "recvmsg6": partial(_receive, _6),
    "getpeername4": partial(_ask_peer, _4),
    "getpeername6": partial(_ask_peer, _6),
    "getsockname4": partial(_ask_name, _4),
    "getsockname6": partial(_ask_name, _6),
    "connect_unix": partial(_unix, _unix_connect),
    "sendmsg_unix": partial(_unix, _unix_send),
    "recvmsg_unix": partial(_unix, _unix_receive),
    "getpeername_unix": partial(_unix, _unix_ask_peer),
    "getsockname_unix": partial(_unix, _unix_ask_name),
    "sysctl": _read_sysctl,
    "getsockopt": _get_option,
    "setsockopt": _set_option,
    "device": _open_device,
    "sock_ops": _connect_tcp,
    "lsm_cgroup": partial(_bind, _4),
}
