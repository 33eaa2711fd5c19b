"""Network namespaces and the devices in them: places that programs attach to and that can go away.

A namespace has no name and is held by a descriptor, so that nothing of it outlives the process:
the kernel removes it, its devices and the attachments to both, some milliseconds after the last
descriptor, process and socket that is in it. Devices are made with pyroute2 (`pip install
'pytest-bpflink[net]'`); a namespace with nothing but `lo` does without.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"  # namespaces are a thread's, not a process's

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_IFREQ = struct.Struct("16sh14x")


class NetNs:
    """A network namespace, with `lo` up in one that was made here.

    Lives until `close()` or the end of a `with` block, and then until the last socket or process
    in it is gone. Devices go with it.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._names = count()
        self.ino = os.fstat(fd).st_ino
        """The kernel's number for it: what a link's `info.netns_ino` holds."""

    @classmethod
    def create(cls) -> Self:
        """Make a fresh one and bring its `lo` up. Raises `BpfError` with EPERM if not allowed."""
        fds: list[int] = []
        errors: list[BpfError] = []

        def make() -> None:
            try:
                _call("unshare", _CLONE_NEWNET, doing="make a network namespace")
                fds.append(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))
            except BpfError as error:
                errors.append(error)

        # In a thread, whose namespace nobody needs afterwards.
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        made = cls(fds[0])
        made.lo.up()
        return made

    @classmethod
    def current(cls) -> Self:
        """Refer to the one that this thread is in."""
        return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))

    def fileno(self) -> int:
        """Descriptor of the namespace. Raises `BpfError` with EBADF after `close()`."""
        if self._fd is None:
            raise BpfError(errno.EBADF, f"use network namespace {self.ino}", hint="it was closed")
        return self._fd

    def close(self) -> None:
        """Let go of it; idempotent. It goes when nothing else holds it, and its devices too."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """Move this thread in for the length of a `with` block, and then back where it was.

        Sockets belong to the namespace they were *made* in, for good: make them inside.
        """
        with contextlib.closing(NetNs.current()) as home:
            _set(self.fileno(), f"enter network namespace {self.ino}")
            try:
                yield self
            finally:
                _set(home.fileno(), f"go back to network namespace {home.ino}")

    @property
    def lo(self) -> Device:
        """Its loopback device."""
        return self.device("lo")

    def device(self, name: str) -> Device:
        """Return a device by its name. Raises `BpfError` with ENODEV where there is none."""
        with self.entered():
            try:
                return Device(self, name, socket.if_nametoindex(name))
            except OSError as error:
                raise BpfError(errno.ENODEV, f"find device {name} in {self}") from error

    def veth(self) -> tuple[Device, Device]:
        """Make a pair of veth devices, both up: what one sends, the other receives."""
        return self._make_pair("veth")

    def dummy(self) -> Device:
        """Make a dummy device and bring it up: it drops what is sent. Many hosts lack it."""
        (device,) = self._make("dummy", f"dummy{next(self._names)}")
        return device

    def netkit(self, *, mode: str = "l2") -> tuple[Device, Device]:
        """Make a pair of netkit devices (6.7), both up: the primary and its peer.

        A program is attached to either through the primary. `mode` is `l2` or `l3`. Raises
        `BpfError` with EOPNOTSUPP where the kernel lacks them.
        """
        return self._make_pair("netkit", netkit_mode=mode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"<NetNs {self.ino}{' closed' if self._fd is None else ''}>"

    def _make_pair(self, kind: str, **attributes: Any) -> tuple[Device, Device]:
        number = next(self._names)
        names = f"{kind}{number}a", f"{kind}{number}b"
        first, second = self._make(kind, *names, peer={"ifname": names[1]}, **attributes)
        return first, second

    def _make(self, kind: str, *names: str, **attributes: Any) -> list[Device]:
        _link(self, f"make a {kind} device", "add", ifname=names[0], kind=kind, **attributes)
        devices = [self.device(name) for name in names]
        for device in devices:
            device.up()
        return devices


class Device:
    """A network device, which is its namespace and its index there."""

    def __init__(self, netns: NetNs, name: str, ifindex: int) -> None:
        self.netns = netns
        """Where it is; an index means nothing outside of it."""
        self.name = name
        """What it is called there."""
        self.ifindex = ifindex
        """The kernel's number for it: what a link's `info.ifindex` holds."""

    def up(self) -> None:
        """Bring it up."""
        self._set_flags(lambda flags: flags | _IFF_UP)

    def down(self) -> None:
        """Bring it down."""
        self._set_flags(lambda flags: flags & ~_IFF_UP)

    def remove(self) -> None:
        """Remove it, and with it its peer. Raises `BpfError` with ENODEV when it is gone."""
        _link(self.netns, f"remove {self}", "del", index=self.ifindex)

    def __repr__(self) -> str:
        return f"<Device {self.name}, {self.ifindex} in {self.netns}>"

    def _set_flags(self, change: Callable[[int], int]) -> None:
        with self.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            name = self.name.encode()
            try:
                asked = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(name, 0))
                _, flags = _IFREQ.unpack(asked)
                fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(name, change(flags)))
            except OSError as error:
                raise BpfError(error.errno or 0, f"bring {self} up or down") from error


def _link(netns: NetNs, doing: str, command: str, **attributes: Any) -> None:
    """Ask for a change of a device over netlink."""
    try:
        from pyroute2 import IPRoute  # type: ignore[import-untyped]
        from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(f"{doing}: needs pyroute2 (pip install 'pytest-bpflink[net]')") from error
    # The socket would keep the namespace, so it lives as long as the question.
    with netns.entered(), IPRoute() as route:
        try:
            route.link(command, **attributes)
        except NetlinkError as error:
            hint = "the kernel lacks this kind of device" if error.code == errno.EOPNOTSUPP else ""
            raise BpfError(error.code, f"{doing} in {netns}", hint=hint) from error


def _set(fd: int, doing: str) -> None:
    _call("setns", fd, _CLONE_NEWNET, doing=doing)


def _call(name: str, *arguments: int, doing: str) -> None:
    """Call a function that Python has from 3.12 on."""
    if getattr(_libc(), name)(*arguments):
        raise BpfError(ctypes.get_errno(), doing, hint="needs CAP_SYS_ADMIN")


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
