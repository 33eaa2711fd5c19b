"""Finds out by booting a guest whether KVM works on this host, and if not, why."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_part, held, recall, writable
from pytest_bpflink.vm.machines import qemu
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import BootFailed, MachineError
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    from pytest_bpflink.vm.kernels import Kernel

_DEVICE = Path("/dev/kvm")

# A kernel under KVM is up in 2 to 4 s; a broken KVM hangs for ever.
_DEADLINE = 20.0

# As long as several runs need that wait for one another.
_LOCK_SECONDS = 120.0


def detect(kernel: Kernel) -> Acceleration:
    """Return the acceleration to use on this machine.

    /dev/kvm proves nothing: if the host is itself a guest, the device may open and create machines,
    and yet boot no kernel. So KERNEL is booted with KVM, once per boot of the host and version of
    QEMU; the answer is kept in the cache. Raises MachineError if there is no QEMU.
    """
    lacking = absence()
    if lacking:
        return Acceleration(kvm=False, reason=f"TCG: {lacking}")
    key = f"{_boot_id()} {_qemu()}"
    cache = writable(cache_part("kvm.json"), unless=lambda file: _recall(file, key))
    known = _recall(cache, key)
    if known:
        return known
    make_directory(cache.parent)
    try:
        with held(cache.with_suffix(".lock"), seconds=_LOCK_SECONDS):
            known = _recall(cache, key)
            if known:
                return known
            answer = _try_kvm(kernel)
            write_whole(cache, json.dumps({"key": key, **asdict(answer)}).encode())
    except TimeoutError as error:
        raise MachineError(f"KVM can't be tried: {error}") from None
    return answer


def absence() -> str:
    """Return why KVM can't be tried on this host, in one phrase; empty if it can."""
    if not _DEVICE.exists():
        return f"there is no {_DEVICE}"
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return f"no access to {_DEVICE} (group kvm)"
    return ""


def _try_kvm(kernel: Kernel) -> Acceleration:
    hoped = Acceleration(kvm=True, reason="KVM")
    with Scratch() as scratch:
        machine = Machine(
            kernel,
            acceleration=hoped,
            directory=scratch.path / "machine",
            cwd=Path("/"),
            environment={"PATH": os.defpath},
        )
        with machine:
            machine.start()
            try:
                machine.wait_ready(_DEADLINE)
            except BootFailed as error:
                what = f"hang for {_DEADLINE:.0f} s" if error.timed_out else "crash"
                return Acceleration(kvm=False, reason=f"TCG: with {_DEVICE} guests {what}")
    return hoped


def _recall(cache: Path, key: str) -> Acceleration | None:
    known = recall(cache)
    kvm, reason = known.get("kvm"), known.get("reason")
    if known.get("key") == key and isinstance(kvm, bool) and isinstance(reason, str):
        return Acceleration(kvm=kvm, reason=reason)
    return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _qemu() -> str:
    program = qemu.find()
    # Asking QEMU for its version takes a tenth of the time of restoring a guest.
    stat = program.stat()
    return f"{program} {stat.st_size} {stat.st_mtime_ns}"
