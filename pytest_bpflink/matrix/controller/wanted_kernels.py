"""The kernels of a run: found, or with the reason why a kernel can't be used.

`vm.kernels` finds and fetches a kernel; `guests` boots it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import libbpfs
from pytest_bpflink.vm.kernels import KernelError
from pytest_bpflink.vm.kernels.drivers import is_packed
from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bpflink.building.recipe import Made, Recipe
    from pytest_bpflink.matrix.guests.guests import Guest, GuestFactory
    from pytest_bpflink.matrix.messages import FreshItem
    from pytest_bpflink.session.kernel import MatrixKernel
    from pytest_bpflink.session.terminal import Progress
    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration


class WantedKernels:
    """The kernels of a run, as `--kernel` names them; `find` adds release and acceleration."""

    def __init__(self, kernels: Sequence[MatrixKernel], factory: GuestFactory) -> None:
        self._all = list(kernels)
        self._factory = factory
        self._found: dict[str, tuple[Kernel, Acceleration]] = {}
        # Why a kernel can't be used, by SPEC.
        self._unusable: dict[str, str] = {}

    def __iter__(self) -> Iterator[MatrixKernel]:
        return iter(self._all)

    def find(self, config: pytest.Config, progress: Progress) -> None:
        """Find or fetch each kernel, and the libbpf that goes with it.

        Raises UsageError if no kernel can be used, or this host can run no guest.
        """
        for index, kernel in enumerate(self._all):
            if not kernel.is_native:
                self._all[index] = self._find(kernel, progress)
        if all(kernel.spec in self._unusable for kernel in self._all):
            reasons = [f"--kernel {spec}: {reason}" for spec, reason in self._unusable.items()]
            raise pytest.UsageError("\n".join(reasons))
        _, directory = libbpfs.asked_for(config)
        self._all = libbpfs.find(self._all, progress, directory=directory)
        progress.done()

    @property
    def packed(self) -> list[str]:
        """The SPECs of kernels without 9p, whose guests are packed."""
        return [spec for spec, (found, _) in self._found.items() if is_packed(found)]

    def libbpfs(self, config: pytest.Config) -> list[str]:
        """Return the paths of the libbpfs that tests use, but for the system's."""
        chosen = {kernel.libbpf or config.option.bpf_libbpf for kernel in self._all}
        return sorted(path for path in chosen if path and "/" in path)

    def guest(self, kernel_id: str, name: str, item: FreshItem | None = None) -> Guest:
        """Return a guest with this kernel for a worker, for any items or for ITEM only."""
        kernel = next(kernel for kernel in self._all if kernel.id == kernel_id)
        if kernel.is_native:
            return self._factory.native(kernel, name=name)
        if kernel.spec in self._unusable:
            guest = self._factory.native(kernel, name=name)
            guest.give_up(f"--kernel {kernel.spec}: {self._unusable[kernel.spec]}")
            return guest
        return self._factory.guest(kernel, self._found[kernel.spec][0], name=name, item=item)

    def made(self, kernel: MatrixKernel, recipe: Recipe) -> Made | None:
        """Return what becomes of a recipe for a kernel's guests; None if they must see to it."""
        return self._factory.machines.made(kernel.spec, recipe)

    def _find(self, kernel: MatrixKernel, progress: Progress) -> MatrixKernel:
        machines = self._factory.machines
        if kernel.spec not in self._found | self._unusable:
            try:
                found = machines.find(kernel.spec, progress)
                self._found[kernel.spec] = found, machines.acceleration(found)
            except KernelError as error:
                # The other kernels still run; this kernel's items are errors with this reason.
                self._unusable[kernel.spec] = str(error)
            except MachineError as error:
                raise pytest.UsageError(f"--kernel {kernel.spec}: {error}") from None
        if kernel.spec in self._unusable:
            return replace(kernel, reason=f"can't be used: {self._unusable[kernel.spec]}")
        found, acceleration = self._found[kernel.spec]
        return replace(
            kernel,
            release=found.release,
            version=found.version or None,
            where="kvm" if acceleration.kvm else "tcg",
            reason=acceleration.reason,
            config_file=str(found.config_file) if found.config_file else None,
        )
