"""Network namespaces and their devices, which programs attach to.

A namespace has no name and is held by a descriptor, so that nothing of it outlives the process.
When the last descriptor, process and socket in it is gone, the kernel removes the namespace, its
devices and the attachments to both, some milliseconds later. Devices are made with pyroute2 (`pip
install 'pytest-bpflink[net]'`), which a namespace with `lo` alone does not need.
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
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.bpf.attaching import addresses
from pytest_bpflink.bpf.attaching.capture import Capture
from pytest_bpflink.bpf.attaching.rtnetlink import link
from pytest_bpflink.bpf.attaching.tc import TcFilter, tc_attach
from pytest_bpflink.bpf.handles import require_program
from pytest_bpflink.errors import BpfError
from pytest_bpflink.introspection.ids import note_made
from pytest_bpflink.introspection.prog_query import prog_query
from pytest_bpflink.system.libc import libc
from pytest_bpflink.system.namespaces import OWN, set_network_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.binding.uapi import AttachType, Direction
    from pytest_bpflink.bpf.handles import ProgramHandle

_CLONE_NEWNET = 0x40000000

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sh14x")


class NetNs:
    """A network namespace; `create()` makes one, with `lo` up.

    Lives until `close()` or the end of a `with` block, and then until the last socket or process
    in it is gone. Devices go with their namespace.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._names = count()
        self.before_closing: list[Callable[[], None]] = []
        """Called by `close()`, the last one first."""
        self.clsact: set[int] = set()
        """The indices of devices that got a clsact qdisc for a filter; see `Device.tc_attach()`."""
        self.ino = os.fstat(fd).st_ino
        """The namespace's inode number, as in the `info.netns_ino` of a link."""

    @classmethod
    def create(cls) -> Self:
        """Make a fresh namespace with `lo` up. Raises `BpfError` with EPERM if not allowed."""
        fds: list[int] = []
        errors: list[BpfError] = []

        def make() -> None:
            if libc().unshare(_CLONE_NEWNET):  # os.unshare came with Python 3.12
                doing, hint = "make a network namespace", "needs CAP_SYS_ADMIN"
                errors.append(BpfError(ctypes.get_errno(), doing, hint=hint))
            else:
                fds.append(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))

        # In a thread, which ends: unshare changes the namespace of the calling thread.
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
        """Refer to the namespace that this thread is in."""
        return cls(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))

    def fileno(self) -> int:
        """Return the descriptor of the namespace. Raises `BpfError` with EBADF after `close()`."""
        if self._fd is None:
            raise BpfError(errno.EBADF, f"use network namespace {self.ino}", hint="it was closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor; idempotent. The namespace goes when nothing else holds it.

        First it removes the filters of `Device.tc_attach()`, and closes namespaces that `veth()`
        made.
        """
        if self._fd is not None:
            for end in reversed(self.before_closing.copy()):
                end()
            fd, self._fd = self._fd, None
            os.close(fd)

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """Move this thread into the namespace for a `with` block, and then back.

        A socket belongs to the namespace in which it was *made*, for good: make sockets in the
        block.
        """
        with contextlib.closing(NetNs.current()) as home:
            _set(self.fileno(), f"enter network namespace {self.ino}")
            try:
                yield self
            finally:
                _set(home.fileno(), f"go back to network namespace {home.ino}")

    def attached(self, attach_type: AttachType) -> tuple[int, ...]:
        """Return the ids of the attached programs: FLOW_DISSECTOR (5.3) or SK_LOOKUP (5.9).

        Raises `BpfError` with EINVAL for any other attach type.
        """
        return prog_query(self.fileno(), attach_type, where=str(self)).prog_ids

    def attach(self, program: ProgramHandle) -> None:
        """Attach by the legacy `BPF_PROG_ATTACH` (4.20): without a link, until `detach()`.

        Raises `BpfError`: EEXIST beside a link, EINVAL for the program that is attached already.
        """
        require_program(program, f"attach to {self} without a link")
        note_made("program", program.id)
        with self.entered():
            libbpf.call(
                "bpf_prog_attach",
                program.fd,
                0,
                program.expected_attach_type,
                0,
                doing=f"attach {program.name} to {self} without a link",
            )

    def detach(self, program: ProgramHandle) -> None:
        """Undo `attach()`. Raises `BpfError` with ENOENT when the program is not attached."""
        require_program(program, f"detach from {self}")
        with self.entered():
            libbpf.call(
                "bpf_prog_detach2",
                program.fd,
                0,
                program.expected_attach_type,
                doing=f"detach {program.name} from {self}",
            )

    @property
    def lo(self) -> Device:
        """The namespace's loopback device."""
        return self.device("lo")

    def device(self, name: str) -> Device:
        """Return a device by its name. Raises `BpfError` with ENODEV where there is none."""
        with self.entered():
            try:
                return Device(self, name, socket.if_nametoindex(name))
            except OSError as error:
                raise BpfError(errno.ENODEV, f"find device {name} in {self}") from error

    def veth(self, *, addresses: bool = False) -> tuple[Device, Device]:
        """Make a pair of veth devices, both up: what one sends, the other receives.

        With `addresses` programs can talk over the pair by IPv4, and by IPv6 where the kernel has
        it: each end has the addresses `ipv4` and `ipv6`. The second end is in a namespace of its
        own, its `netns`, which is closed with this one: a kernel delivers packets to an address of
        the same namespace by the loopback device, and none would cross the pair. Both ends know
        each other's MAC address, and the pair is quiet: only packets that somebody sends cross it.
        """
        number = next(self._names)
        names = f"veth{number}a", f"veth{number}b"
        if addresses:
            return self._talking(number, *names)
        first, second = self._make("veth", *names, peer={"ifname": names[1]})
        return first, second

    def dummy(self) -> Device:
        """Make a dummy device, up, which drops packets that are sent. Many hosts lack the kind.

        It receives only the packets that two macvlans on it send each other: see `macvlans()`.
        """
        (device,) = self._make("dummy", f"dummy{next(self._names)}")
        return device

    def macvlans(self, below: Device) -> tuple[Device, Device]:
        """Make two macvlan devices on the device `below`, both up.

        `below` receives the packets that one sends to the other's address.
        """
        on = {"link": below.ifindex, "macvlan_mode": "bridge"}
        first, second = (
            self._make("macvlan", f"macvlan{next(self._names)}", **on)[0] for _ in range(2)
        )
        return first, second

    def netkit(self) -> tuple[Device, Device]:
        """Make a pair of netkit devices (6.7) in the L3 mode, both up: the primary and its peer.

        Programs attach to either through the primary. Raises `BpfError` with EOPNOTSUPP where the
        kernel lacks netkit.
        """
        # pyroute2 knows nothing of netkit: the mode and the peer's name are the kernel's choice.
        (primary,) = self._make("netkit", f"netkit{next(self._names)}")
        peer = Device(self, *_peer_of(primary))
        peer.up()
        return primary, peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", None) is not None:
            os.close(self._fd or 0)  # what is attached to a device stays

    def __repr__(self) -> str:
        return f"<NetNs {self.ino}{' closed' if self._fd is None else ''}>"

    def _talking(self, number: int, *names: str) -> tuple[Device, Device]:
        """Make a pair with addresses, whose second end is in another namespace."""
        other = NetNs.create()
        self.before_closing.append(other.close)
        link(
            self,
            "make a veth device",
            "add",
            ifname=names[0],
            kind="veth",
            peer={"ifname": names[1]},
        )
        first, moved = (self.device(name) for name in names)
        link(self, f"move {moved}", "set", index=moved.ifindex, net_ns_fd=other.fileno())
        second = other.device(names[1])
        for device in (first, second):
            addresses.set_quiet(device)
            device.up()
        addresses.give_pair(first, second, number)
        return first, second

    def _make(self, kind: str, *names: str, **attributes: Any) -> list[Device]:
        link(self, f"make a {kind} device", "add", ifname=names[0], kind=kind, **attributes)
        devices = [self.device(name) for name in names]
        for device in devices:
            device.up()
        return devices


class Device:
    """A network device, identified by its namespace and its index there."""

    def __init__(self, netns: NetNs, name: str, ifindex: int) -> None:
        self.netns = netns
        """The namespace that the device is in; its index means nothing elsewhere."""
        self.name = name
        """The device's name there, when it was made or found."""
        self.ifindex = ifindex
        """The kernel's number for the device, as in the `info.ifindex` of a link."""

    def up(self) -> None:
        """Bring the device up. Raises `BpfError` with ENODEV when it is gone."""
        self._set_flags(lambda flags: flags | _IFF_UP)

    def down(self) -> None:
        """Bring the device down. Raises `BpfError` with ENODEV when it is gone."""
        self._set_flags(lambda flags: flags & ~_IFF_UP)

    @property
    def ipv4(self) -> str:
        """The first IPv4 address of the device. Raises `BpfError`: EADDRNOTAVAIL if it has none."""
        return addresses.first(self, socket.AF_INET)

    @property
    def ipv6(self) -> str:
        """The first IPv6 address of the device that is not link-local; raises as `ipv4`."""
        return addresses.first(self, socket.AF_INET6)

    def capture(self, *, allow_lost: bool = False) -> Capture:
        """Capture the packets that the device receives and sends: `with device.capture() as c`.

        Raises `BpfError` with ENODEV when the device is gone.
        """
        return Capture(self, allow_lost=allow_lost)

    def tc_attach(
        self, program: ProgramHandle, *, direction: Direction, priority: int = 0, handle: int = 0
    ) -> TcFilter:
        """Attach a program of `SEC("tc")` by a classic tc filter (4.5), in direct-action mode.

        This is the legacy way, for what uses it still: there is no BPF link, and the filter
        outlives its process. Programs of `SEC("tcx/...")` attach by `Program.attach()` (6.6); the
        kernel runs them first. Filters run by ascending `priority`, and the kernel chooses the
        numbers that are 0. `NetNs.close()`, and so the `netns` fixture, removes the filter.

        Raises `BpfError`: EEXIST where the priority has a filter with this handle, ENOENT where the
        kernel has no clsact (CONFIG_NET_SCH_INGRESS) or no BPF filters (CONFIG_NET_CLS_BPF);
        `WrongArgument` for a program of another type.
        """
        return tc_attach(self, program, direction=direction, priority=priority, handle=handle)

    def remove(self) -> None:
        """Remove the device and its peer. Raises `BpfError` with ENODEV when it is gone."""
        link(self.netns, f"remove {self}", "del", index=self.ifindex)

    def __repr__(self) -> str:
        return f"<Device {self.name}, {self.ifindex} in {self.netns}>"

    def _set_flags(self, change: Callable[[int], int]) -> None:
        with self.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            doing = f"bring {self} up or down"
            try:
                # Another device may have the name, if this one was renamed.
                name = socket.if_indextoname(self.ifindex).encode()
            except OSError as error:
                raise BpfError(errno.ENODEV, doing) from error
            try:
                asked = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(name, 0))
                _, flags = _IFREQ.unpack(asked)
                fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(name, change(flags)))
            except OSError as error:
                raise BpfError(error.errno or 0, doing) from error


def _peer_of(device: Device) -> tuple[str, int]:
    """Return the name and the index of a device's peer."""
    (answer,) = link(device.netns, f"find the peer of {device}", "get", index=device.ifindex)
    index = answer.get_attr("IFLA_LINK")
    with device.netns.entered():
        return socket.if_indextoname(index), index


def _set(fd: int, doing: str) -> None:
    try:
        set_network_namespace(fd)
    except OSError as error:
        raise BpfError(error.errno or 0, doing, hint="needs CAP_SYS_ADMIN") from error
