"""Machines of `vm` for guests, made on the host of this process as the `--kernel-*` options say.

The controller uses it for guests on its host, and `host_server` for guests on another host.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from pytest_bpflink.building import compilation
from pytest_bpflink.building.recipe import CFLAGS
from pytest_bpflink.matrix import kernel_sources
from pytest_bpflink.vm import architectures, kernels
from pytest_bpflink.vm.kernels.drivers import is_packed
from pytest_bpflink.vm.machines import kvm, qemu
from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.warm.cold import ColdMachine
from pytest_bpflink.vm.warm.warm import WarmMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pytest

    from pytest_bpflink.building.recipe import Made, Recipe
    from pytest_bpflink.matrix.guests.packed_project import PackedProject
    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


def project_of(config: pytest.Config) -> Path:
    """Return the directory of which packed guests get a copy.

    It is the rootdir, or without an ini-file the directory that pytest was called in: there pytest
    (9.2) takes the path after --kernel for one of tests', and a rootdir that is above both.
    """
    if config.inipath or config.option.rootdir:
        return config.rootpath
    return config.invocation_params.dir


@dataclass(frozen=True)
class GuestOptions:
    """The options that all guests of a run are made by, in types that execnet can send."""

    kind: str
    memory_mib: int
    cpus: int
    append: tuple[str, ...]
    sources: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    cflags: str = ""

    @classmethod
    def of(cls, config: pytest.Config) -> Self:
        """Return the `--kernel-*` options of a session, its sources of kernels, and its files."""
        option = config.option
        return cls(
            kind=option.kernel_guest,
            memory_mib=option.kernel_memory,
            cpus=option.kernel_cpus,
            append=tuple(word for text in option.kernel_append for word in text.split()),
            sources=kernel_sources.of(config),
            sent=tuple(map(str, filter(None, (project_of(config), config.inipath)))),
            cflags=os.environ.get(CFLAGS, ""),
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
        self._project: PackedProject | None = None
        self._show = say
        self._found: list[Kernel] = []
        self._said: set[str] = set()
        # Kernels of other architectures, and the variables that lead their guests to programs.
        self._foreign: dict[str, tuple[Kernel, Root]] = {}
        self._variables: dict[str, dict[str, str]] = {}

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Return the kernel that a SPEC names, fetched if need be."""
        arch, _ = architectures.split(spec)
        if arch:
            qemu.find(architectures.ALL[arch])  # before anything is fetched
        store = kernels.Store(arch=arch, added=self._options.sources)
        found = kernels.find(spec, store=store, progress=progress)
        self._found.append(found)
        if found.is_foreign:
            from pytest_bpflink.matrix.guests import foreign

            root = foreign.root_for(found, cwd=self._cwd, progress=progress)
            self._foreign[spec] = found, root
        return found

    def acceleration(self, kernel: Kernel) -> Acceleration:
        """Return KVM if this kernel really boots with it, else TCG, with the reason."""
        if kernel.image not in self._accelerations:
            found = kvm.detect(kernel)
            if is_packed(kernel):
                found = replace(found, reason=f"{found.reason}; packed: no 9p")
            self._accelerations[kernel.image] = found
        return self._accelerations[kernel.image]

    def machine(
        self,
        kernel: Kernel,
        *,
        directory: Path,
        console_log: Path | None,
        environment: Mapping[str, str] | None = None,
    ) -> Machine:
        """Return a machine with this host's root, or parts of it if the kernel has no 9p.

        ENVIRONMENT defaults to this process's.
        """
        environment = dict(environment or os.environ) | self._variables.get(kernel.spec, {})
        packed = is_packed(kernel)
        if packed and self._options.kind == "plain":
            raise MachineError(
                "it has no 9p, by which a plain guest has this host's root: take another kind"
                " (--kernel-guest warm or cold)"
            )
        make: Callable[..., Machine] = Machine
        if self._options.kind != "plain":
            kind = {"cold": ColdMachine, "warm": WarmMachine}[self._options.kind]
            make = partial(kind, say=partial(self._say, kernel))
            if packed:
                project = self._packed_project()
                environment |= project.variables
                make = partial(make, parcel=partial(project.parcel, environment))
        return make(
            kernel,
            acceleration=self.acceleration(kernel),
            directory=directory,
            cwd=self._cwd,
            environment=environment,
            memory_mib=self._options.memory_mib,
            cpus=self._options.cpus,
            append=self._options.append,
            console_log=console_log,
            writable=self._writable,
        )

    def via(self, kernel: Kernel) -> None:
        """Return None: machines on this host need no proxy."""

    def compile(self, sources: Sequence[Path], libbpfs: Sequence[str] = ()) -> None:
        """Compile these programs for guests of other architectures; note them for packed guests.

        All other guests of this host find them compiled.
        """
        if any(map(is_packed, self._found)):
            self._packed_project().add(sources, libbpfs)
        if self._foreign:
            from pytest_bpflink.matrix.guests import foreign

            for spec, (kernel, root) in self._foreign.items():
                self._variables[spec] = foreign.compile_for(kernel, root, sources, self._show)

    def made(self, spec: str, recipe: Recipe) -> Made:
        """Return what becomes of a recipe for the guests of a kernel."""
        if spec in self._foreign:
            from pytest_bpflink.matrix.guests import foreign

            return foreign.made_for(*self._foreign[spec], recipe)
        return compilation.made(recipe)

    def close(self) -> None:
        """Do nothing: each machine is closed by its guest."""

    def _packed_project(self) -> PackedProject:
        if self._project is None:
            from pytest_bpflink.matrix.guests.packed_project import PackedProject

            self._project = PackedProject(self._options.sent, cwd=self._cwd, say=self._show)
        return self._project

    def _say(self, kernel: Kernel, text: str) -> None:
        line = f"{kernel.id}: {text}"
        # The guests of a kernel have the same to say.
        if line not in self._said:
            self._said.add(line)
            self._show(line)
