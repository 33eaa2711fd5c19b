"""The key of a save: a digest of everything that a saved guest depends on.

Files count by content, not by time or owner, so that a save can be used on another machine with the
same files. Another kernel, package, QEMU or processor gives another key, so a stale save is never
found; `Saves.prune` removes it in time.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.architectures import ALL
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.image import guest_image
from pytest_bpflink.vm.image.digests import Contents
from pytest_bpflink.vm.machines import qemu, virtme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.image.inventory import Inventory
    from pytest_bpflink.vm.image.packed_root import PackedRoot
    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

_CPUINFO = Path("/proc/cpuinfo")

# Raise it when the same inputs give another save.
_FORMAT = 5


def dependencies(
    kernel: Kernel,
    inventory: Inventory,
    *,
    acceleration: Acceleration,
    cache: Path,
    packed: PackedRoot | None = None,
    root: Root | None = None,
) -> dict[str, Any]:
    """Return what a guest with this kernel and this Python depends on, beside its machine.

    A guest of another architecture than this machine's also depends on its ROOT.

    Digests of files are remembered in CACHE. Raises MachineError if QEMU or virtme-ng is not
    installed.
    """
    contents = Contents(cache / "contents.json")
    parts = {
        "format": _FORMAT,
        "kernel": contents.digest(kernel.image),
        "modules": list(_modules(kernel, contents)),
        "agent": guest_image.own_digest(),
        "python": [inventory.python, dict(inventory.startup), inventory.digest],
        "plugin": _plugin(inventory),
        "qemu": _qemu(contents, kernel),
        "host": os.uname().machine,
        **(_of_root(root) if root else _of_host(inventory, acceleration, contents)),
    }
    if packed:
        parts["packed"] = [packed.digest, [*_packed_modules(kernel, contents)]]
    contents.keep()
    return parts


def _of_host(
    inventory: Inventory, acceleration: Acceleration, contents: Contents
) -> dict[str, Any]:
    """Return what a guest with the host's root and processor depends on."""
    return {
        "directories": inventory.directories(),
        "shell": guest_image.shell(),
        "virtme-ng": _virtme(contents),
        "kvm": acceleration.kvm,
        "processor": _processor(kvm=acceleration.kvm),
    }


def _of_root(root: Root) -> dict[str, Any]:
    return {"root": [root.python, root.digest]}


def digest(parts: Mapping[str, Any], **more: Any) -> str:
    """Return a digest of PARTS, from `dependencies`, and of MORE.

    The key of a save is the digest with the words of its machine, and with its kernel parameters.
    """
    return hashlib.sha256(json.dumps({**parts, **more}).encode()).hexdigest()[:32]


def _plugin(inventory: Inventory) -> list[str]:
    # A restored guest imports an edited plugin anew. Were the content of a checkout in the key,
    # each edit would make another save.
    if not inventory.has_installed_plugin:
        return [inventory.plugin_place]
    return [inventory.plugin_place, inventory.plugin_digest()]


def _modules(kernel: Kernel, contents: Contents) -> Iterator[Any]:
    """Yield digests of the modules in the image, and one of what modules there are."""
    directory = kernel.module_directory
    if directory is None:
        return
    for module in guest_image.needed_modules(directory, contents=contents):
        yield contents.digest(module)
    index = directory / "modules.dep.bin"
    if index.exists():
        yield contents.digest(index)


def _packed_modules(kernel: Kernel, contents: Contents) -> Iterator[str]:
    from pytest_bpflink.vm.image import packed_root

    if kernel.modules:
        installed = kernel.modules / "lib/modules" / kernel.release
        for name in packed_root.wanted_modules(installed):
            yield contents.digest(installed / name)


def _qemu(contents: Contents, kernel: Kernel) -> list[str]:
    program = qemu.find(ALL.get(kernel.arch))
    return [str(program), contents.digest(program)]


def _virtme(contents: Contents) -> list[Any]:
    """Return the path of virtme-ng, with a digest of pip's RECORD, else the path's identity."""
    program = Path(virtme.virtme_run()).resolve()
    records = program.parent.parent.glob("lib/python3*/*-packages/virtme_ng-*/RECORD")
    installed = [contents.digest(record) for record in sorted(records)]
    return [str(program), *(installed or identity(program))]


def _processor(*, kvm: bool) -> list[str]:
    """Return the lines of /proc/cpuinfo that a saved guest depends on.

    Under KVM the features are among them. An emulated processor is the same on all hosts but for
    the time stamp counter, which is the host's: the saved kernel has measured its frequency, which
    depends on the model.
    """
    wanted = {"vendor_id", "cpu family", "model", "model name", "stepping"}
    wanted |= {"CPU implementer", "CPU part"}
    if kvm:
        wanted |= {"flags", "Features"}
    lines = _CPUINFO.read_text().partition("\n\n")[0].splitlines()
    return [line for line in lines if line.split("\t")[0].strip(": ") in wanted]
