"""The BPF programs in the traffic control filters of a device, over rtnetlink(7)."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING

from pytest_bpflink.system.netlink import attributes, dump

if TYPE_CHECKING:
    from collections.abc import Iterator

_NEW_FILTER, _GET_FILTER = 44, 46  # RTM_NEWTFILTER, RTM_GETTFILTER
_OPTIONS, _PROGRAM_ID = 2, 11  # TCA_OPTIONS, TCA_BPF_ID (4.13)

_FILTER = struct.Struct("=B3xiIII")  # struct tcmsg

# The two sides of the clsact qdisc, of which an ingress qdisc has the first; and the root qdisc.
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3, "root": 0}


def programs_in_filters(ifindex: int) -> Iterator[tuple[str, int]]:
    """Yield the side, and the program's id, of each BPF filter of a device in this namespace."""
    for side, message in _filters(ifindex):
        options = dict(attributes(message[_FILTER.size :])).get(_OPTIONS, b"")
        # Filters of other kinds have other options under this number, of other lengths.
        number = dict(attributes(options)).get(_PROGRAM_ID, b"")
        yield side, int.from_bytes(number, sys.byteorder)


def has_filters(ifindex: int) -> bool:
    """Whether a device in this namespace has filters of any kind."""
    return any(True for _ in _filters(ifindex))


def _filters(ifindex: int) -> Iterator[tuple[str, bytes]]:
    """Yield the side and the message of each filter of a device in this namespace."""
    with contextlib.suppress(OSError):  # the kernel lacks netlink or traffic control
        for side, parent in _PARENTS.items():
            request = _FILTER.pack(socket.AF_UNSPEC, ifindex, 0, parent, 0)
            for message in dump(socket.NETLINK_ROUTE, _GET_FILTER, request, answers=_NEW_FILTER):
                yield side, message
