"""The key of a save: a digest of everything that a saved guest is made of.

Knows what a saved guest depends on. Another kernel, package, QEMU or processor is another key, so a
stale save is never found; `Saves.prune` removes it in time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm import guest_image, virtme
from pytest_bpflink.vm.machine import MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.vm.accel import Acceleration
    from pytest_bpflink.vm.image import Kernel
    from pytest_bpflink.vm.inventory import Inventory

# To be raised when saves are made in another way from the same things.
_FORMAT = 3


def save_key(
    kernel: Kernel, inventory: Inventory, *, acceleration: Acceleration, machine: Sequence[str]
) -> str:
    """Return the key of a guest with this kernel and this Python on this host.

    MACHINE is what its command is composed from, beside these. Raises MachineError where QEMU or
    virtme-ng is not installed.
    """
    parts = {
        "format": _FORMAT,
        "kernel": _stat(kernel.image),
        "modules": _modules(kernel),
        "agent": guest_image.own_digest(),
        "python": [inventory.python, dict(inventory.startup), inventory.digest],
        "plugin": _plugin(inventory),
        "qemu": _program(f"qemu-system-{os.uname().machine}"),
        "virtme-ng": _virtme(),
        "machine": list(machine),
        "kvm": acceleration.kvm,
        "processor": _processor(),
        "host": os.uname().machine,
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _plugin(inventory: Inventory) -> list[str]:
    # What is edited is imported anew in guests that are restored: each edit would be another save.
    if not inventory.has_installed_plugin:
        return [inventory.plugin_place]
    return [inventory.plugin_place, inventory.plugin_digest()]


def _modules(kernel: Kernel) -> Any:
    if kernel.modules is None:
        return None
    # The one is written when a kernel is unpacked, the other when it is built.
    for listing in (f"lib/modules/{kernel.release}/modules.dep", "modules.order"):
        if (kernel.modules / listing).exists():
            return _stat(kernel.modules / listing)
    return None


def _virtme() -> Any:
    try:
        return _stat(Path(virtme.virtme_run()))
    except virtme.ComposeError as error:
        raise MachineError(str(error)) from None


def _program(name: str) -> Any:
    path = shutil.which(name)
    if not path:
        raise MachineError(f"{name} is not installed: apt-get install {virtme.qemu_package()}")
    return _stat(Path(path))


def _stat(path: Path) -> list[Any]:
    resolved = path.resolve()
    stat = os.stat(resolved)
    return [str(resolved), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _processor() -> list[str]:
    """Return model and features of the processor: what a guest under KVM has, and counts on."""
    wanted = {"vendor_id", "cpu family", "model", "model name", "stepping", "flags"}
    wanted |= {"CPU implementer", "CPU part", "Features"}
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    return [line for line in lines if line.split("\t")[0].strip(": ") in wanted]
