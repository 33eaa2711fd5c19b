"""Dumps over netlink(7): a request, its answers, and their attributes."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_NESTED = 0x8000  # NLA_F_NESTED

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr


def dump(protocol: int, kind: int, request: bytes, *, answers: int) -> Iterator[bytes]:
    """Yield the bodies of the answers of kind `answers`, up to the dump's end or an error.

    Raises `OSError` where the kernel lacks the protocol.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as asking:
        asking.settimeout(1)
        asking.send(_HEADER.pack(_HEADER.size + len(request), kind, _REQUEST_DUMP, 1, 0) + request)
        while True:
            data = asking.recv(1 << 16)
            while data:
                length, answer, *_ = _HEADER.unpack_from(data)
                if answer != answers:  # NLMSG_DONE or NLMSG_ERROR
                    return
                yield data[_HEADER.size : length]
                data = data[_aligned(length) :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each attribute."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & ~_NESTED, data[_ATTRIBUTE.size : length]
        data = data[_aligned(max(length, _ATTRIBUTE.size)) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3
