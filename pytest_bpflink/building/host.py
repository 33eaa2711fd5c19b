"""The host that a guest asks to compile, if there is one; cheap, since each guest names it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.building.asking import Request


class Answer(NamedTuple):
    """The bytes of an object; without it, the parts of an error."""

    image: bytes | None
    log: str = ""
    hint: str = ""
    doing: str = ""
    errno: int = 0


if TYPE_CHECKING:
    Ask = Callable[[Request], Answer | None]

# The process that has the connection, and what asks by it.
_connections: dict[int, Ask] = {}


def ask_by(send: Ask) -> None:
    """Have this process, and not its children, ask by SEND; it returns None without an answer."""
    _connections[os.getpid()] = send


def connection() -> Ask | None:
    """Return what asks the host; None if this process has none to ask."""
    return _connections.get(os.getpid())
