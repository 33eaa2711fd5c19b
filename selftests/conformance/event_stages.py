"""Stages whose target is an event: a function of the kernel, of a library, of another program."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink import NetNs, PerfEvent, SoftwareEvent
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.selftests.conformance.network_stages import send_frame
from pytest_bpflink.selftests.conformance.programs import STEPPER
from pytest_bpflink.selftests.conformance.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import Device, KernelInfo, Object, Program


class Syscalls(Stage):
    """getpgid(2): a system call, and the functions of the kernel that it calls."""

    source = "events"
    tries = 5  # on 7.2 a program was seen to miss a call while a child process started

    def trigger(self) -> None:
        """Ask for the process group."""
        os.getpgid(os.getpid())


class Trampoline(Syscalls):
    """A function that the program's section names, and that calls the program by a trampoline."""

    def load(self, source: str, *programs: str) -> Object:
        """Load programs anew for each test before 5.11, where a program attaches only once."""
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
        """The name of the function that the system call calls."""
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
        # On 6.18 reading the fdinfo of a link without cookies dereferences a NULL pointer.
        super().__init__(request, program, cookies=[1, 2], **options)

    @cached_property
    def target(self) -> list[str]:
        """Two functions, the first of which the system call calls; a twin has two others."""
        uncalled = {os.getpgid: "getscheduler", os.getsid: "getioprio"}
        return [str(super().target), f"security_task_{uncalled[self.call]}"]

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of the functions in the kernel's BTF."""
        return tuple(vmlinux().find(name, Kind.FUNC) for name in self.target)


class Uprobe(Syscalls):
    """A function of a copy of libc, which no other process has mapped."""

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self._file: Path = request.getfixturevalue("libc_copy")
        self._library = ctypes.CDLL(str(self._file))
        self.trace("labs")

    def trace(self, function: str) -> None:
        """Choose the function to trace."""
        self._function = getattr(self._library, function)
        offset = self.offset_of(function)
        self.options |= {"offsets": [offset]} if "multi" in self.name else {"offset": offset}

    def offset_of(self, function: str) -> int:
        """Return the offset in the file of a function."""
        return file_offset(getattr(self._library, function), self._file)

    def twin(self) -> Stage:
        """Trace another function."""
        other = super().twin()
        assert isinstance(other, Uprobe)
        other.trace("ffs")
        return other

    @cached_property
    def target(self) -> object:
        """The copy's file."""
        return self._file

    def trigger(self) -> None:
        """Call the function."""
        self._function(-1)


class PageFaults(Syscalls):
    """A software event that counts page faults."""

    @cached_property
    def target(self) -> object:
        """The event, counted for this process."""
        return self._undo.enter_context(PerfEvent.software(SoftwareEvent.PAGE_FAULTS))

    def trigger(self) -> None:
        """Write to fresh pages."""
        with mmap.mmap(-1, 16 * mmap.PAGESIZE) as fresh:
            for page in range(0, len(fresh), mmap.PAGESIZE):
                fresh[page] = 1


class Replacement(Syscalls):
    """A function of another program, the stepper, which runs at system calls."""

    source = "freplace"

    @property
    def _stepper(self) -> Program:
        return self.load(*STEPPER).program("stepper")

    @cached_property
    def target(self) -> object:
        """The stepper, attached so that it runs."""
        self._undo.enter_context(self._stepper.attach())
        return self._stepper


class OfModule(Syscalls):
    """A function of a module, which runs when a dummy device sends a frame."""

    module, function = "dummy", "dummy_xmit"

    @cached_property
    def device(self) -> Device:
        """A dummy device; to make one loads the module."""
        return self._undo.enter_context(NetNs.create()).dummy()

    def load(self, source: str, *programs: str) -> Object:
        """Load programs for this test alone, since the module may be unloaded and loaded again."""
        assert self.device.ifindex  # libbpf finds a function only if its module is loaded
        return self._undo.enter_context(self.load_anew(source, *programs))

    def before_load(self, opened: Object) -> None:
        """Name the function of fentry programs, since the kernel checks it when it loads them."""
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
        """The function, for programs to which it is named when they are attached."""
        named = {"on_kprobe": self.function, "on_kprobe_multi": [self.function]}
        return named.get(self.name)

    def trigger(self) -> None:
        """Send a frame."""
        send_frame(self.device)

    def is_built_in(self) -> bool:
        """Whether the kernel has the module's code built in: only modules have a state."""
        assert self.device.ifindex
        return not Path(f"/sys/module/{self.module}/initstate").exists()

    def unload(self) -> str:
        """Unload the module, and return why that is refused; empty if it is not."""
        done = subprocess.run(["rmmod", self.module], capture_output=True, text=True, check=False)
        return done.stderr.strip()


def copy_libc(directory: Path) -> Path:
    """Copy the C library of this process, and return the copy."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        mapped = next(line.split()[-1] for line in lines if "/libc.so" in line)
    return Path(shutil.copyfile(mapped, directory / "libc_copy.so"))


def file_offset(function: Any, file: Path) -> int:
    """Return the offset in its file of a function of this process."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    with open("/proc/self/maps", encoding="utf-8") as lines:
        for line in lines:
            span, _, offset, *_, name = line.split(maxsplit=5)
            start, end = (int(part, 16) for part in span.split("-"))
            if start <= address < end and name.strip() == str(file):
                return address - start + int(offset, 16)
    raise LookupError(f"{file} is not mapped")
