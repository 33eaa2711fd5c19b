"""Which sockets were made in a cgroup, and which processes have them open.

A socket stays in the cgroup in which it was made, and keeps that cgroup's BPF programs after the
cgroup is removed. sock_diag(7) names the cgroup of TCP sockets, and of UDP sockets that have a port
(`INET_DIAG_CGROUP_ID`, 5.9); other sockets are not found.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_INET_DIAG_CGROUP_ID = 21

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2, for sockets in any state
_ANSWER_BYTES, _INODE_AT = 72, 68  # struct inet_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr

_KINDS = {
    (family, protocol): name
    for family in (socket.AF_INET, socket.AF_INET6)
    for protocol, name in ((socket.IPPROTO_TCP, "TCP"), (socket.IPPROTO_UDP, "UDP"))
}


def holders_of_cgroups(cgroup_ids: set[int]) -> list[str]:
    """Name the open sockets that were made in these cgroups: `UDP socket, fd 7 of pid 12 (nc)`."""
    found = {
        inode: name
        for (family, protocol), name in _KINDS.items()
        for inode, cgroup_id in _sockets(family, protocol)
        if cgroup_id in cgroup_ids
    }
    return [f"{found[inode]} socket, {holder}" for inode, holder in _open_sockets(set(found))]


def _sockets(family: int, protocol: int) -> Iterator[tuple[int, int]]:
    """Yield inode and cgroup id of this network namespace's sockets.

    Yields none where the kernel lacks sock_diag(7) for the protocol.
    """
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as asking,
    ):
        asking.settimeout(1)
        request = _REQUEST.pack(family, protocol, 0, 0xFFFFFFFF)
        header = _HEADER.pack(
            _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0
        )
        asking.send(header + request)
        answers = True
        while answers:
            answers = False
            for message in _messages(asking.recv(1 << 16)):
                answers = True
                yield _inode_and_cgroup(message)


def _messages(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of answers, up to the end of the dump or an error."""
    at = 0
    while at < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind != _SOCK_DIAG_BY_FAMILY:
            return
        yield data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def _inode_and_cgroup(message: bytes) -> tuple[int, int]:
    (inode,) = struct.unpack_from("=I", message, _INODE_AT)
    at = _ANSWER_BYTES
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _INET_DIAG_CGROUP_ID:
            return inode, struct.unpack_from("=Q", message, at + _ATTRIBUTE.size)[0]
        at += length + 3 & ~3
    return inode, 0


def _open_sockets(inodes: set[int]) -> Iterator[tuple[int, str]]:
    """Yield each of these sockets that a process has open, with the descriptor and the process."""
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):  # the process has ended, or is another user's
            name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
            for fd in os.listdir(f"/proc/{pid}/fd"):
                inode = _inode_of_socket(pid, fd)
                if inode in inodes:
                    yield inode, f"fd {fd} of pid {pid} ({name})"


def _inode_of_socket(pid: str, fd: str) -> int:
    with contextlib.suppress(OSError):  # closed meanwhile
        target = os.readlink(f"/proc/{pid}/fd/{fd}")
        if target.startswith("socket:["):
            return int(target.removeprefix("socket:[").removesuffix("]"))
    return 0
