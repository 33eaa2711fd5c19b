"""A process in a user namespace of its own, and a BPF FS that delegates to it what a token allows.

Python's os.unshare came with 3.12.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, NoReturn

from pytest_bpflink import BpfError
from pytest_bpflink.binding.bpf_syscall import bpf
from pytest_bpflink.selftests.support.path_fd import mount_bpffs, open_bpffs

if TYPE_CHECKING:
    from collections.abc import Callable

_TOKEN_CREATE = 36
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_NEW_NAMESPACES = 0x10000000 | 0x00020000 | 0x40000000  # CLONE_NEWUSER, NEWNS and NEWNET


class _TokenCreate(ctypes.Structure):
    """The part of `union bpf_attr` for TOKEN_CREATE."""

    _fields_ = (("flags", ctypes.c_uint32), ("bpffs_fd", ctypes.c_uint32))


def token_create(bpffs: int) -> int:
    """Return a token of what a BPF FS delegates, by a descriptor of its root (6.9)."""
    return bpf(_TOKEN_CREATE, _TokenCreate(bpffs_fd=bpffs), doing="make a token")


def require_tokens(bpffs: os.PathLike[str]) -> None:
    """Raise `BpfError` if this kernel has no tokens."""
    root = os.open(bpffs, os.O_RDONLY)
    try:
        os.close(token_create(root))
    except BpfError as error:
        # In the first user namespace nobody needs a token, and the kernel makes none.
        if error.errno != errno.EOPNOTSUPP:
            raise
    finally:
        os.close(root)


def as_delegate(function: Callable[[int], dict[str, str]], **delegates: str) -> dict[str, str]:
    """Call a function in a process with user, mount and network namespaces of its own.

    The function is given a descriptor of the root of a BPF FS that delegates what the options say.
    The process has every capability in its namespaces, where `lo` is up, and none outside.
    """
    near, far = socket.socketpair()
    with near, far:
        child = os.fork()
        if not child:
            _answer(far, function)
        far.close()
        try:
            context = _received(near)
            mount = mount_bpffs(context, **delegates)
            socket.send_fds(near, [b"."], [mount])
            os.close(context)
            os.close(mount)
            with near.makefile() as answers:
                found: dict[str, str] = json.loads(answers.readline())
        finally:
            near.close()
            os.waitpid(child, 0)
    return found


def _answer(parent: socket.socket, function: Callable[[int], dict[str, str]]) -> NoReturn:
    try:
        answer = _delegated(parent, function)
    except BaseException as error:  # noqa: BLE001 - the parent's test shows it
        answer = {"failed": repr(error)}
    with contextlib.suppress(OSError):
        parent.sendall(json.dumps(answer).encode() + b"\n")
    os._exit(0)


def _delegated(parent: socket.socket, function: Callable[[int], dict[str, str]]) -> dict[str, str]:
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NAMESPACES):
        raise OSError(ctypes.get_errno(), "unshare")
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w", encoding="utf-8") as written:
            written.write(text)
    _set_lo_up()
    context = open_bpffs()
    socket.send_fds(parent, [b"."], [context])
    os.close(context)
    mount = _received(parent)
    root = os.open(".", os.O_RDONLY, dir_fd=mount)
    os.close(mount)
    return function(root)


def _set_lo_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _received(connection: socket.socket) -> int:
    _, (fd,), _, _ = socket.recv_fds(connection, 1, 1)
    return fd
