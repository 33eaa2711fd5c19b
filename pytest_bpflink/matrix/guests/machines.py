"""What a worker runs on, as `guests` sees it: a machine, and the place that machines come from.

Two Protocols, and the machine that pytest itself runs on. `virtual_machines` makes machines on this
host, `hosts` on others.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


class Machine(Protocol):
    """A machine that a worker runs on; `vm.machines.machine.Machine` is one."""

    @property
    def gateway_python(self) -> str:
        """The command that execnet takes for a Python: its stdin and stdout reach the guest's."""

    def start(self) -> None:
        """Begin to boot, and return at once."""

    def wait_ready(self, timeout: float) -> None:
        """Wait until a worker can start; raise BootFailed if it never will."""

    def kill(self) -> None:
        """End it now."""

    def close(self) -> None:
        """End it, and leave nothing of it behind."""

    def console_tail(self, *, lines: int) -> str:
        """Return the end of what its kernel said."""


class Machines(Protocol):
    """Where kernels and machines come from."""

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the kernel that a SPEC names, or raise KernelError."""

    def acceleration(self, kernel: Kernel) -> Acceleration:
        """Return what a machine with this kernel runs on."""

    def machine(self, kernel: Kernel, *, directory: Path, console_log: Path | None) -> Machine:
        """Return a machine that is not started yet."""

    def via(self, kernel: Kernel) -> str | None:
        """Return the id of xdist's proxy that reaches machines with this kernel, if one must."""

    def compile(self, sources: Sequence[Path]) -> None:
        """Compile BPF programs where the machines will look for them."""

    def close(self) -> None:
        """Leave nothing behind; the machines must be closed before."""


#: What a run takes its machines from; tests put fakes here.
MACHINES = pytest.StashKey[Machines]()


class ThisMachine:
    """The machine that pytest runs on: a native worker needs no boot, and has no console."""

    gateway_python = shlex.quote(sys.executable)

    def start(self) -> None:
        """Be there already."""

    def wait_ready(self, timeout: float) -> None:
        """Be ready already."""

    def kill(self) -> None:
        """Leave its worker to xdist."""

    def close(self) -> None:
        """Leave its worker to xdist."""

    def console_tail(self, *, lines: int) -> str:
        """Return nothing: the kernel log is not this worker's alone."""
        del lines
        return ""
