"""A connection from a worker in a guest to a plugin that listens on the host's loopback.

pytest-rerunfailures (16) counts reruns in the controller, and its workers connect to a port of
127.0.0.1, which in a guest is the guest's loopback. So the guest listens on the same port, and the
bytes pass through a channel of execnet.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from execnet import Channel
    from xdist.workermanage import WorkerController

# The key that pytest-rerunfailures adds to workerinput.
_PORT = "sock_port"
_CHUNK = 1 << 16


def connect(node: WorkerController) -> Channel | None:
    """Return a channel to the port in the input of a worker in a guest; None without a port.

    Called on the host, before the worker starts.
    """
    port = node.workerinput.get(_PORT)
    if port is None:
        return None
    channel = node.gateway.newchannel()
    _join(socket.create_connection(("127.0.0.1", port)), channel)
    return channel


# Before the hook of pytest-rerunfailures, which connects.
@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Listen in the guest, for one connection."""
    workerinput = getattr(config, "workerinput", {})
    if _PORT not in workerinput:
        return
    from pytest_bpflink.matrix.messages import Assignment

    assignment = Assignment.received(config)
    if assignment and assignment.relay:
        server = socket.create_server(("127.0.0.1", workerinput[_PORT]))
        threading.Thread(
            target=_accept, args=(server, assignment.relay), daemon=True, name="relay"
        ).start()


def _accept(server: socket.socket, channel: Channel) -> None:
    with server:
        connection, _ = server.accept()
    _join(connection, channel)


def _join(connection: socket.socket, channel: Channel) -> None:
    """Pass bytes on in both directions, until one side closes."""

    def take(data: bytes | None) -> None:
        with contextlib.suppress(OSError):
            if data is None:
                connection.close()
            else:
                connection.sendall(data)

    def give() -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(_CHUNK):
                channel.send(data)

    channel.setcallback(take, endmarker=None)
    threading.Thread(target=give, daemon=True, name="relay").start()
