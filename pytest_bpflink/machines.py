"""The machines that workers run on, and where they come from: virtual ones of `vm`, or this one.

Knows what the `--kernel-*` options say of machines. Which worker gets one is `guests`' business.
"""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pytest

from pytest_bpflink.report import Progress
from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.machines import kvm, machine
from pytest_bpflink.vm.warm import cold, warm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


class Machine(Protocol):
    """What is needed of a machine; `vm.machines.machine.Machine` is one."""

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


#: What a run takes its machines from; tests put fakes here.
MACHINES = pytest.StashKey[Machines]()


class VirtualMachines:
    """Machines of `vm`, made as the `--kernel-*` options say."""

    def __init__(self, config: pytest.Config) -> None:
        self._option = config.option
        self._cwd = config.invocation_params.dir
        self._accelerations: dict[Path, Acceleration] = {}
        self._progress = Progress(config)
        self._said: set[str] = set()

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the kernel that a SPEC names, fetched if need be."""
        return kernels.find(spec, progress=progress)

    def acceleration(self, kernel: Kernel) -> Acceleration:
        """Return KVM if this kernel really boots with it, else TCG, with the reason."""
        if kernel.image not in self._accelerations:
            self._accelerations[kernel.image] = kvm.detect(kernel)
        return self._accelerations[kernel.image]

    def machine(self, kernel: Kernel, *, directory: Path, console_log: Path | None) -> Machine:
        """Return a machine that shares this host's root and starts in this directory."""
        make: Callable[..., Machine] = machine.Machine
        if self._option.kernel_guest != "plain":
            kind = {"cold": cold.ColdMachine, "warm": warm.WarmMachine}[self._option.kernel_guest]
            make = partial(kind, say=partial(self._say, kernel))
        return make(
            kernel,
            acceleration=self.acceleration(kernel),
            directory=directory,
            cwd=self._cwd,
            environment=dict(os.environ),
            memory_mib=self._option.kernel_memory,
            cpus=self._option.kernel_cpus,
            append=tuple(word for text in self._option.kernel_append for word in text.split()),
            console_log=console_log,
            writable=self._option.kernel_rw,
        )

    def _say(self, kernel: Kernel, text: str) -> None:
        said = f"{kernel.id}: {text}"
        # What goes for one guest of a kernel goes for all.
        if said not in self._said:
            self._said.add(said)
            self._progress.line(said)


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


def of_run(config: pytest.Config) -> Machines:
    """Return where a run's machines come from: this host, or those that `--kernel-host` names."""
    if config.stash.get(MACHINES, None):
        return config.stash[MACHINES]
    if not config.option.kernel_host:
        return VirtualMachines(config)
    from pytest_bpflink import hosts  # with execnet's connections, for runs that name a host

    return hosts.HostedMachines(config)
