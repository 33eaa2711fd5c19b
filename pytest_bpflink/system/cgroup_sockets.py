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
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.system.netlink import attributes, dump

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_CGROUP_ID = 21

_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2, for sockets in any state
_ANSWER_BYTES, _INODE_AT = 72, 68  # struct inet_diag_msg

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
    request = _REQUEST.pack(family, protocol, 0, 0xFFFFFFFF)
    kind = _SOCK_DIAG_BY_FAMILY
    with contextlib.suppress(OSError):
        for message in dump(_NETLINK_SOCK_DIAG, kind, request, answers=kind):
            (inode,) = struct.unpack_from("=I", message, _INODE_AT)
            found = dict(attributes(message[_ANSWER_BYTES:]))
            cgroup_id = found.get(_INET_DIAG_CGROUP_ID, b"")
            yield inode, int.from_bytes(cgroup_id, sys.byteorder)


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
