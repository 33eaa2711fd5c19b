"""Machines on this host: the machines of `vm`, made as the `--kernel-*` options say."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from pytest_bpflink.session.terminal import Progress
from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.machines import kvm, machine
from pytest_bpflink.vm.warm import cold, warm

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from pytest_bpflink.matrix.guests.machines import Machine
    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


class VirtualMachines:
    """Makes machines of `vm` on this host."""

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

    def via(self, kernel: Kernel) -> None:
        """Return None: machines on this host need no proxy."""

    def compile(self, sources: Sequence[Path]) -> None:
        """Do nothing: guests of this host find its compiled programs."""

    def close(self) -> None:
        """Do nothing: each machine is closed by its guest."""

    def _say(self, kernel: Kernel, text: str) -> None:
        said = f"{kernel.id}: {text}"
        # All guests of a kernel say the same.
        if said not in self._said:
            self._said.add(said)
            self._progress.line(said)
