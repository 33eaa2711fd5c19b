"""Finds out by booting a guest whether KVM works on this host, and if not, why."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_part, held, is_texts, recall, writable
from pytest_bpflink.vm.machines import console, qemu
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import BootFailed, DamagedImage, MachineError
from pytest_bpflink.vm.machines.trial import TrialMachine
from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bpflink.vm.kernels import Kernel

_DEVICE = Path("/dev/kvm")

# So many kernels of distributions must fail before KVM counts as broken. One may be broken itself:
# Linux 7.2 crashed where 6.1 booted, with QEMU's emulation of AMD's SVM beneath.
_ENOUGH = 2

# The kernel's panic when init exits with status 1, as guest/trial.sh does without a virtio port.
_INIT_ENDED = "Attempted to kill init! exitcode=0x00000100"

# As long as several runs need that wait for one another.
_LOCK_SECONDS = 300.0


@dataclass(frozen=True)
class _Known:
    """What kernels said of KVM since the host booted: one booted with it, and how others failed.

    `failed` has a phrase for each kernel that was tried in vain, by its `_identity`. `believed`
    names those of them that are a distribution's, which boot elsewhere.
    """

    works: bool = False
    failed: Mapping[str, str] = field(default_factory=dict)
    believed: tuple[str, ...] = ()

    def answer(self, kernel: str) -> Acceleration | None:
        """Return the acceleration for a kernel, or None if it has to be tried."""
        doubted = not self.works and len(self.believed) >= _ENOUGH
        failure = self.failed.get(kernel) or (self.failed[self.believed[-1]] if doubted else "")
        if failure:
            return Acceleration(kvm=False, reason=f"TCG: with {_DEVICE} {failure}")
        return Acceleration(kvm=True, reason="KVM") if self.works else None

    def with_failure(self, kernel: str, how: str, *, is_distributions: bool) -> _Known:
        """Return what is known after another kernel was tried in vain."""
        believed = (*self.believed, kernel) if is_distributions else self.believed
        return replace(self, failed={**self.failed, kernel: how}, believed=believed)


def detect(kernel: Kernel) -> Acceleration:
    """Return the acceleration to use for a kernel on this machine.

    /dev/kvm proves nothing: if the host is itself a guest, the device may open and create machines,
    and yet boot no kernel. So KERNEL is booted with KVM, unless another kernel did boot so. A
    kernel that fails may be broken itself: it is emulated, and other kernels are tried. Only if two
    kernels of a distribution failed, and none booted, all kernels are emulated.

    Answers are kept in the cache, for this boot of the host and this QEMU. Raises MachineError if
    there is no QEMU.
    """
    if kernel.is_foreign:
        return Acceleration(kvm=False, reason=f"TCG: {kernel.arch} is emulated")
    lacking = absence()
    if lacking:
        return Acceleration(kvm=False, reason=f"TCG: {lacking}")
    key, tried = f"{_boot_id()} {_file(qemu.find())}", _file(kernel.image)
    cache = writable(
        cache_part("kvm.json"), unless=lambda file: _recall(file, key).answer(tried) is not None
    )
    answer = _recall(cache, key).answer(tried)
    if answer:
        return answer
    make_directory(cache.parent)
    try:
        with held(cache.with_suffix(".lock"), seconds=_LOCK_SECONDS):
            known = _recall(cache, key)
            answer = known.answer(tried)
            if answer:
                return answer
            try:
                how = _try_kvm(kernel)
            except DamagedImage as error:  # of which the guest's own start will tell
                return Acceleration(kvm=False, reason=f"TCG: {error}")
            known = (
                known.with_failure(tried, how, is_distributions=kernel.lease is not None)
                if how
                else replace(known, works=True)
            )
            write_whole(cache, json.dumps({"key": key, **asdict(known)}).encode())
    except TimeoutError as error:
        raise MachineError(f"KVM can't be tried: {error}") from None
    answer = known.answer(tried)
    assert answer, "it was tried"
    return answer


def absence() -> str:
    """Return why KVM can't be tried on this host, in one phrase; empty if it can."""
    if not _DEVICE.exists():
        return f"there is no {_DEVICE}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"no access to {_DEVICE} (group kvm)"
    return ""


def _try_kvm(kernel: Kernel) -> str:
    """Boot a kernel with KVM, and return how it failed, in one phrase; empty if it did not."""
    with Scratch() as scratch:
        machine = TrialMachine(
            kernel,
            acceleration=Acceleration(kvm=True, reason="KVM"),
            directory=scratch.path / "machine",
        )
        with machine:
            machine.start()
            try:
                machine.wait_ready()
            except BootFailed as error:
                if _INIT_ENDED in machine.console_tail():
                    return ""  # it ran a program: what it lacks, a guest's own start will say
                return f"Linux {kernel.release} {_how(machine, timed_out=error.timed_out)}"
    return ""


def _how(machine: TrialMachine, *, timed_out: bool) -> str:
    cause = console.cause(machine.console_tail())
    log = console.lines(machine.directory / "qemu.log")
    # After an internal error of KVM, QEMU prints its registers, and the guest stands still.
    detail = cause or next((line for line in log if "error" in line), "".join(log[-1:]))
    what = f"ended (QEMU's status {machine.returncode})"
    if timed_out:
        what = "hung"
        detail = detail or machine.console_tail(lines=1)
    elif cause:
        what = "crashed"
    return f"{what}: {detail}" if detail else what


def _recall(cache: Path, key: str) -> _Known:
    known = recall(cache)
    works, failed, believed = (known.get(name) for name in ("works", "failed", "believed"))
    if (
        known.get("key") == key
        and isinstance(works, bool)
        and isinstance(failed, dict)
        and is_texts([*failed.values()])
        and is_texts(believed)
        and failed.keys() >= {*believed}
    ):
        return _Known(works, failed, tuple(believed))
    return _Known()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _file(path: Path) -> str:
    """Return what tells a file from others; asking QEMU for its version takes far longer."""
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"
