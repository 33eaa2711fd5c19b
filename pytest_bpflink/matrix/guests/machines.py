"""The Protocols `Machine` and `Machines`, which `guests` needs, and `ThisMachine`.

`virtual_machines` makes machines on this host, `hosts` on other hosts.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_bpflink.building.recipe import Made, Recipe
    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


class Machine(Protocol):
    """A machine that a worker runs on; `vm.machines.machine.Machine` is one."""

    @property
    def gateway_python(self) -> str:
        """The command that execnet runs as a Python; it connects to the Python in the guest."""

    def start(self) -> None:
        """Begin to boot, and return at once."""

    def wait_ready(self, timeout: float) -> None:
        """Wait until a worker can start; raise BootFailed if it never will."""

    def kill(self) -> None:
        """End it now."""

    def close(self) -> None:
        """End it, and leave nothing of it behind."""

    def console_tail(self, *, lines: int) -> str:
        """Return the end of its console."""

    def errors_tail(self, *, lines: int) -> str:
        """Return the end of the standard error of its Python."""


class Machines(Protocol):
    """Where kernels and machines come from."""

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the kernel that a SPEC names, or raise KernelError."""

    def acceleration(self, kernel: Kernel) -> Acceleration:
        """Return whether a machine with this kernel uses KVM, and why."""

    def machine(self, kernel: Kernel, *, directory: Path, console_log: Path | None) -> Machine:
        """Return a machine that is not started yet."""

    def via(self, kernel: Kernel) -> str | None:
        """Return the id of xdist's proxy to machines with this kernel; None if they need none."""

    def compile(self, sources: Sequence[Path], libbpfs: Sequence[str]) -> None:
        """Compile BPF programs where the machines will look for them, as for LIBBPFS, paths."""

    def made(self, spec: str, recipe: Recipe) -> Made | None:
        """Return what becomes of a recipe for a kernel's guests; None if they must see to it."""

    def close(self) -> None:
        """Leave nothing behind; the machines must be closed before."""


#: Where machines come from, whatever the options say; tests put fakes here.
MACHINES = pytest.StashKey[Machines]()


class ThisMachine:
    """The machine that pytest runs on: a native worker needs no boot, and has no console."""

    gateway_python = shlex.quote(sys.executable)

    def start(self) -> None:
        """Do nothing: this machine runs."""

    def wait_ready(self, timeout: float) -> None:
        """Do nothing: this machine is ready."""

    def kill(self) -> None:
        """Do nothing: xdist ends the worker."""

    def close(self) -> None:
        """Do nothing: xdist ends the worker."""

    def console_tail(self, *, lines: int) -> str:
        """Return nothing: the kernel log is not this worker's alone."""
        del lines
        return ""

    def errors_tail(self, *, lines: int) -> str:
        """Return nothing: a native worker has the standard error of this pytest."""
        del lines
        return ""
