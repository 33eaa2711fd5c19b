"""What each kind of link is attached to, what makes its program run, and what ends its target.

A stage holds a target of a link type: a cgroup that the process has entered, a device, an event.
`trigger()` does what the hooked program sees, from the test's own thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import socket
import struct
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink import (
    BpfError,
    Link,
    Map,
    Object,
    PerfEvent,
    Program,
    SoftwareEvent,
    XdpFlags,
    libbpf,
)
from pytest_bpflink.selftests.witness import SyscallWitness, datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import Cgroup, Device, NetNs

_PROGS = Path(__file__).parent / "progs"
_LOCAL = "127.0.0.1"
_FRAME = b"\xff" * 6 + b"\2" * 6 + b"\x88\xb5" + bytes(46)  # the programs' own EtherType


class Stage:
    """A target, two programs for it that count apart, and another program of another type."""

    source: str
    filtered = False
    """Whether its programs are told which process to look at."""

    tries = 1

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        self.request = request
        self.name = program
        self.options = options
        self._undo = contextlib.ExitStack()
        request.addfinalizer(self._undo.close)
        self.object = self.load(self.source, program, f"{program}_alt")

    def load(self, source: str, *programs: str) -> Object:
        """Load some programs of a source, without those that the kernel may lack."""
        loaded = self._undo.enter_context(Object.open(_PROGS / f"conformance_{source}.bpf.c"))
        for name, program in loaded.programs.items():
            program.set_autoload(name in programs)
        if self.filtered:
            loaded.rodata.update(SyscallWitness.rodata())
        return self.before_load(loaded).load()

    def before_load(self, opened: Object) -> Object:
        """Change the object between opening and loading."""
        return opened

    @cached_property
    def first(self) -> Program | Map:
        """What the suite attaches."""
        return self.object.program(self.name)

    @cached_property
    def second(self) -> Program | Map:
        """What it updates to."""
        return self.object.program(f"{self.name}_alt")

    @property
    def prog_id(self) -> int:
        """What a link of the first has in its info."""
        return self.first.id

    @cached_property
    def target(self) -> object | None:
        """What it attaches to; None where the section says it."""
        return None

    def attach(self, program: Program | Map | None = None) -> Link:
        """Attach the first program, or another."""
        given = {} if self.target is None else {"target": self.target}
        link: Link = self.request.getfixturevalue("bpf_link")(
            program or self.first, **given, **self.options
        )
        return link

    def ran(self) -> tuple[bool, bool]:
        """Trigger the hook, and say whether the first and whether the second program ran."""
        before = self.counts()
        for _ in range(self.tries):
            self.trigger()
        after = self.counts()
        return after[0] > before[0], after[1] > before[1]

    def trigger(self) -> None:
        """Do what the program sees."""
        raise NotImplementedError

    def end_target(self) -> None:
        """Let the target go away while a link to it is held."""
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        """How often each of the two has run."""
        return self.object.bss["calls"], self.object.bss["alt_calls"]


class Syscalls(Stage):
    """getpgid(2): a system call, and the functions of the kernel that it calls."""

    source = "events"
    filtered = True
    tries = 5  # on 7.2 a live program was seen to miss one while a child was just starting

    def trigger(self) -> None:
        """Ask for the process group."""
        os.getpgid(os.getpid())


class Kprobe(Syscalls):
    """A function of the kernel, by its name."""

    @cached_property
    def target(self) -> object:
        """What getpgid(2) calls."""
        return "security_task_getpgid"


class KprobeMulti(Syscalls):
    """Functions of the kernel, by their names."""

    @cached_property
    def target(self) -> object:
        """Two functions, of which getpgid(2) calls the first."""
        return ["security_task_getpgid", "security_task_getsid"]


class Uprobe(Syscalls):
    """A function of a library: a copy, whose file is this test's alone."""

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        directory = request.getfixturevalue("_bpf_estate").directory
        self._file = directory / "uprobe.so"
        if not self._file.exists():
            shutil.copyfile(_mapped_file("libc.so"), self._file)
        self._function = ctypes.CDLL(str(self._file)).labs
        offset = _file_offset(self._function, self._file)
        self.options |= {"offsets": [offset]} if "multi" in program else {"offset": offset}

    @cached_property
    def target(self) -> object:
        """The library's file."""
        return self._file

    def trigger(self) -> None:
        """Call the function."""
        self._function(-1)


class PageFaults(Syscalls):
    """A software event that counts page faults."""

    @cached_property
    def target(self) -> object:
        """The event, of this process."""
        return self._undo.enter_context(PerfEvent.software(SoftwareEvent.PAGE_FAULTS))

    def trigger(self) -> None:
        """Write to fresh pages."""
        with mmap.mmap(-1, 16 * mmap.PAGESIZE) as fresh:
            for page in range(0, len(fresh), mmap.PAGESIZE):
                fresh[page] = 1


class Replacement(Syscalls):
    """A function of another program, which runs at system calls."""

    source = "freplace"
    filtered = False

    def before_load(self, opened: Object) -> Object:
        """Load the program to be replaced, and name its function as the target of the others."""
        self._target = self._undo.enter_context(Object.open(_PROGS / "conformance_target.bpf.c"))
        self._target.rodata.update(SyscallWitness.rodata())
        self._target.load()
        for program in opened.programs.values():
            libbpf.call(
                "bpf_program__set_attach_target",
                program.pointer,
                self._target.program("stepper").fd,
                b"step",
                doing="name what is replaced",
            )
        return opened

    @cached_property
    def target(self) -> object:
        """The program, running."""
        program = self._target.program("stepper")
        self._undo.enter_context(program.attach())
        return program


class InCgroup(Stage):
    """A cgroup that the process is in. `action` is what the hook sees."""

    source = "cgroup"

    def __init__(
        self, request: pytest.FixtureRequest, program: str, action: Callable[[], None]
    ) -> None:
        super().__init__(request, program)
        self._action = action
        self._inside = contextlib.ExitStack()
        self._undo.callback(self._inside.close)
        self._inside.enter_context(self.target.entered())

    @cached_property
    def target(self) -> Cgroup:
        """A cgroup of the test's own."""
        cgroup: Cgroup = self.request.getfixturevalue("cgroup").create("target")
        return cgroup

    def trigger(self) -> None:
        """Do what the hook sees."""
        self._action()

    def end_target(self) -> None:
        """Leave the cgroup and remove it."""
        self._inside.close()
        self.target.close()
        self.target.path.rmdir()


class InNetNs(Stage):
    """A network namespace, and a datagram that passes its loopback."""

    source = "net"

    @cached_property
    def netns(self) -> NetNs:
        """The test's own."""
        netns: NetNs = self.request.getfixturevalue("netns")
        return netns

    @cached_property
    def target(self) -> object:
        """The namespace."""
        return self.netns

    def trigger(self) -> None:
        """Send a datagram to a port that nobody listens on."""
        with self.netns.entered(), datagram_socket() as sender:
            sender.sendto(b"bpflink", (_LOCAL, 9))

    def end_target(self) -> None:
        """Let go of the namespace, which nobody else holds."""
        self.netns.close()


class Dissected(InNetNs):
    """A network namespace, and a raw packet, whose headers the kernel looks for."""

    def trigger(self) -> None:
        """Send a raw packet over the loopback."""
        send_frame(self.netns.lo)


class OnDevice(InNetNs):
    """A device of a pair, and a frame that one of the two sends."""

    def __init__(
        self,
        request: pytest.FixtureRequest,
        program: str,
        *,
        kind: str = "veth",
        sender: int,
        **options: Any,
    ) -> None:
        super().__init__(request, program, **options)
        self._pair: tuple[Device, Device] = getattr(self.netns, kind)()
        self.device = self._pair[0]
        self.sender = self._pair[sender]

    @cached_property
    def target(self) -> object:
        """The first of the pair."""
        return self.device

    def trigger(self) -> None:
        """Send a frame."""
        send_frame(self.sender)

    def end_target(self) -> None:
        """Remove the pair."""
        self.device.remove()


class Sockets(Stage):
    """A map of sockets, and a connection of which one end is put into it."""

    source = "sockmap"

    def __init__(self, request: pytest.FixtureRequest, program: str, *, sends: bool) -> None:
        super().__init__(request, program)
        self._sends = sends

    @cached_property
    def target(self) -> Map:
        """The map, without a socket yet."""
        return self.object.map("sockets")

    def trigger(self) -> None:
        """Put a new socket into the map, since one takes the programs of that moment along."""
        with (
            socket.create_server((_LOCAL, 0)) as server,
            socket.create_connection(server.getsockname()) as near,
            server.accept()[0] as far,
        ):
            inside, outside = near, far
            self.target[bytes(4)] = struct.pack("=I", inside.fileno())
            sender, receiver = (inside, outside) if self._sends else (outside, inside)
            sender.sendall(b"bpflink")
            receiver.settimeout(1)
            receiver.recv(16)


class Iterator(Stage):
    """An iterator, which runs when somebody reads a file made from the link."""

    source = "iter"

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self._ids: list[int] = []

    def attach(self, program: Program | Map | None = None) -> Link:
        """Attach, and remember which link to read through."""
        link = super().attach(program)
        self._ids.append(link.id)
        return link

    def trigger(self) -> None:
        """Read through each link, by its id, that is still there."""
        for link_id in self._ids:
            try:
                link = Link.by_id(link_id)
            except BpfError:
                continue
            with link:
                fd = libbpf.call("bpf_iter_create", link.fd, doing="make an iterator")
            with open(fd, "rb") as file:
                file.read()


class MapIterator(Iterator):
    """An iterator over the elements of a map."""

    @cached_property
    def target(self) -> object:
        """An array of two."""
        return self.object.map("elements")


class CgroupIterator(Iterator):
    """An iterator over a cgroup alone."""

    @cached_property
    def target(self) -> object:
        """The test's own cgroup."""
        cgroup: object = self.request.getfixturevalue("cgroup")
        return cgroup


class Congestion(Stage):
    """A congestion control for TCP, and a connection that asks for it by its name."""

    source = "struct_ops"

    def load(self, source: str, *_programs: str) -> Object:
        """Load all, since the two maps share most programs."""
        return self._undo.enter_context(Object.open(_PROGS / f"conformance_{source}.bpf.c")).load()

    @cached_property
    def first(self) -> Map:
        """The map that the suite attaches."""
        return self.object.map("congestion")

    @cached_property
    def second(self) -> Map:
        """The map that it updates to."""
        return self.object.map("congestion_alt")

    @property
    def prog_id(self) -> int:
        """A link of this type has none."""
        return 0

    def trigger(self) -> None:
        """Connect, and choose the congestion control, if it is there."""
        with (
            socket.create_server((_LOCAL, 0)) as server,
            socket.create_connection(server.getsockname()) as connection,
            contextlib.suppress(FileNotFoundError),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bpflink")


def send_frame(device: Device) -> None:
    """Send a frame of the programs' own EtherType from a device."""
    with (
        device.netns.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind((device.name, 0))
        sender.send(_FRAME)


def _mapped_file(name: str) -> Path:
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return next(Path(line.split()[-1]) for line in lines if f"/{name}" in line)


def _file_offset(function: Any, file: Path) -> int:
    """Where in its file a function of this process is."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            span, _, offset, *_, name = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end and name.strip() == str(file):
                return address - start + int(offset, 16)
    raise LookupError(f"{file} is not mapped")


SKB_MODE = {"flags": XdpFlags.SKB_MODE}
DRV_MODE = {"flags": XdpFlags.DRV_MODE}
