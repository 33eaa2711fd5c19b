"""Events that programs run at: functions of the kernel, of libraries, of other programs."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink import NetNs, PerfEvent, SoftwareEvent, libbpf
from pytest_bpflink.btf import Kind
from pytest_bpflink.selftests.conformance.network_stages import send_frame
from pytest_bpflink.selftests.conformance.programs import STEPPER
from pytest_bpflink.selftests.conformance.stages import Stage
from pytest_bpflink.vmlinux import vmlinux

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import Device, KernelInfo, Object, Program


class Syscalls(Stage):
    """getpgid(2): a system call, and the functions of the kernel that it calls."""

    source = "events"
    tries = 5  # on 7.2 a live program was seen to miss one while a child was just starting

    def trigger(self) -> None:
        """Ask for the process group."""
        os.getpgid(os.getpid())


class Trampoline(Syscalls):
    """A function whose call goes through the program, by what the program's section says."""

    def load(self, source: str, *programs: str) -> Object:
        """Load them for each test anew before 5.11, where they can be attached only once."""
        kernel: KernelInfo = self.request.getfixturevalue("bpf_kernel")
        if kernel.version >= (5, 11):
            return super().load(source, *programs)
        return self._undo.enter_context(self.load_anew(source, *programs))


class Kprobe(Syscalls):
    """A function of the kernel, by its name."""

    call: Callable[[int], int]

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self.call = os.getpgid

    @cached_property
    def target(self) -> object:
        """What the system call calls."""
        return f"security_task_{self.call.__name__}"

    def trigger(self) -> None:
        """Make the system call."""
        self.call(os.getpid())

    def twin(self) -> Stage:
        """Trace another function."""
        other = super().twin()
        assert isinstance(other, Kprobe)
        other.call = os.getsid
        return other


class Functions(Kprobe):
    """Functions of the kernel, by their names."""

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        # Without cookies who reads the link's fdinfo is a NULL pointer dereference on 6.18.
        super().__init__(request, program, cookies=[1, 2], **options)

    @cached_property
    def target(self) -> list[str]:
        """Two functions, of which the system call calls the first; none of them is a twin's."""
        uncalled = {os.getpgid: "getscheduler", os.getsid: "getioprio"}
        return [str(super().target), f"security_task_{uncalled[self.call]}"]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Their numbers in the kernel's BTF."""
        return tuple(vmlinux().find(name, Kind.FUNC) for name in self.target)


class Uprobe(Syscalls):
    """A function of a copy of libc, which no other process has mapped."""

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self._file: Path = request.getfixturevalue("libc_copy")
        self._library = ctypes.CDLL(str(self._file))
        self.trace("labs")

    def trace(self, function: str) -> None:
        """Choose the function."""
        self._function = getattr(self._library, function)
        offset = _file_offset(self._function, self._file)
        self.options |= {"offsets": [offset]} if "multi" in self.name else {"offset": offset}

    def twin(self) -> Stage:
        """Trace another function."""
        other = super().twin()
        assert isinstance(other, Uprobe)
        other.trace("ffs")
        return other

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

    @property
    def _stepper(self) -> Program:
        return self.load(*STEPPER).program("stepper")

    @cached_property
    def target(self) -> object:
        """The program, running."""
        self._undo.enter_context(self._stepper.attach())
        return self._stepper


class OfModule(Syscalls):
    """A function of a module: what a dummy device sends a frame by."""

    module, function = "dummy", "dummy_xmit"

    @cached_property
    def device(self) -> Device:
        """A device, whose making loads the module."""
        return self._undo.enter_context(NetNs.create()).dummy()

    def load(self, source: str, *programs: str) -> Object:
        """Load for this test alone, since the function may go and come again."""
        assert self.device.ifindex  # libbpf looks for the function among those that are there
        return self._undo.enter_context(self.load_anew(source, *programs))

    def before_load(self, opened: Object) -> None:
        """Name the function, where the kernel wants to know when a program is loaded."""
        for name in {"on_fentry", "on_fentry_alt"} & opened.programs.keys():
            libbpf.call(
                "bpf_program__set_attach_target",
                opened.program(name).pointer,
                0,
                self.function.encode(),
                doing="name a function of a module",
            )

    @cached_property
    def target(self) -> object | None:
        """The function, where it is named at attaching."""
        named = {"on_kprobe": self.function, "on_kprobe_multi": [self.function]}
        return named.get(self.name)

    def trigger(self) -> None:
        """Send a frame."""
        send_frame(self.device)

    def unload(self) -> str:
        """Ask for the module's end, and return what is in its way."""
        done = subprocess.run(["rmmod", self.module], capture_output=True, text=True, check=False)
        return done.stderr.strip()


def copy_libc(directory: Path) -> Path:
    """Copy the C library of this process, and return the copy."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        mapped = next(line.split()[-1] for line in lines if "/libc.so" in line)
    return Path(shutil.copyfile(mapped, directory / "libc_copy.so"))


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
