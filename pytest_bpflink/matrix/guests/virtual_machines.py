"""Machines of `vm` for guests, made on the host of this process as the `--kernel-*` options say.

The controller uses it for guests on its host, and `host_server` for guests on another host.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from pytest_bpflink.matrix import kernel_sources
from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.machines import kvm
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.warm.cold import ColdMachine
from pytest_bpflink.vm.warm.warm import WarmMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pytest

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


@dataclass(frozen=True)
class GuestOptions:
    """The options that all guests of a run are made by, in types that execnet can send."""

    kind: str
    memory_mib: int
    cpus: int
    append: tuple[str, ...]
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: pytest.Config) -> Self:
        """Return the `--kernel-*` options of a session, and its sources of kernels."""
        option = config.option
        return cls(
            kind=option.kernel_guest,
            memory_mib=option.kernel_memory,
            cpus=option.kernel_cpus,
            append=tuple(word for text in option.kernel_append for word in text.split()),
            sources=kernel_sources.of(config),
        )


class VirtualMachines:
    """Makes machines of `vm` on the host that this process runs on."""

    def __init__(
        self,
        options: GuestOptions,
        *,
        cwd: Path,
        say: Callable[[str], None],
        writable: Path | None = None,
    ) -> None:
        """CWD is the directory that guests start in, WRITABLE the one that they may write to.

        SAY gets a line for what takes long, and for a guest of another kind than the options say.
        """
        self._options = options
        self._cwd = cwd
        self._writable = writable
        self._accelerations: dict[Path, Acceleration] = {}
        self._show = say
        self._said: set[str] = set()

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the kernel that a SPEC names, fetched if need be."""
        store = kernels.Store(added=self._options.sources)
        return kernels.find(spec, store=store, progress=progress)

    def acceleration(self, kernel: Kernel) -> Acceleration:
        """Return KVM if this kernel really boots with it, else TCG, with the reason."""
        if kernel.image not in self._accelerations:
            self._accelerations[kernel.image] = kvm.detect(kernel)
        return self._accelerations[kernel.image]

    def machine(
        self,
        kernel: Kernel,
        *,
        directory: Path,
        console_log: Path | None,
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        """Return a machine that shares this host's root; ENVIRONMENT defaults to this process's."""
        make: Callable[..., Machine] = Machine
        if self._options.kind != "plain":
            kind = {"cold": ColdMachine, "warm": WarmMachine}[self._options.kind]
            make = partial(kind, say=partial(self._say, kernel))
        return make(
            kernel,
            acceleration=self.acceleration(kernel),
            directory=directory,
            cwd=self._cwd,
            environment=dict(environment or os.environ),
            memory_mib=self._options.memory_mib,
            cpus=self._options.cpus,
            append=self._options.append,
            console_log=console_log,
            writable=self._writable,
        )

    def via(self, kernel: Kernel) -> None:
        """Return None: machines on this host need no proxy."""

    def compile(self, sources: Sequence[Path]) -> None:
        """Do nothing: guests of this host find its compiled programs."""

    def close(self) -> None:
        """Do nothing: each machine is closed by its guest."""

    def _say(self, kernel: Kernel, text: str) -> None:
        line = f"{kernel.id}: {text}"
        # The guests of a kernel have the same to say.
        if line not in self._said:
            self._said.add(line)
            self._show(line)
