"""Guests of another architecture than this machine's: their machine, and their place for the host.

Knows QEMU's options for such a machine, for virtme-ng composes none with another root than the
host's, and which directories of the host a guest shows. The root is Debian's (`debian_root`).
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.architectures import ALL
from pytest_bpflink.vm.machines import plain, qemu, virtme
from pytest_bpflink.vm.warm.blueprint import SHARE, SHARE_TAG, Blueprint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.image.inventory import Inventory
    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.plain import Worker

_HOST_TAG = "host"
_PORTS = ("stdin", "stdout", "stderr")

# The host's directories with programs and with the system's own files: a guest has these of its
# root. It has links to directories in it, too.
_OF_SYSTEM = {"bin", "boot", "dev", "etc", "lib", "lost+found", "proc", "run", "sbin", "sys", "usr"}
_OF_SYSTEM |= {"var"}

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def draw(kernel: Kernel, root: Root, *, memory_mib: int, cpus: int) -> Blueprint:
    """Return a machine for KERNEL, which shares ROOT and the host's root.

    Raises MachineError if there is no QEMU for it.
    """
    architecture = ALL[kernel.arch]
    bus, program = architecture.bus, qemu.find(architecture)
    words = [
        str(program),
        *("-name", virtme.host_name(kernel), "-m", f"{memory_mib}M", "-smp", str(cpus)),
        *architecture.machine_options,
        *_shared("root", root.path, "/dev/root", bus),
        *_shared(_HOST_TAG, Path("/"), _HOST_TAG, bus),
        *("-device", f"virtio-9p-{bus},fsdev={SHARE},mount_tag={SHARE_TAG}"),
        *("-nodefaults", "-display", "none", "-no-reboot", "-serial", "chardev:console"),
        *("-chardev", "file,id=console,path=/dev/null"),
        *("-chardev", "stdio,id=stdin,signal=on,mux=off"),
        *("-chardev", "file,id=stdout,path=/proc/self/fd/1"),
        *("-chardev", "file,id=stderr,path=/proc/self/fd/2"),
        *(word for port in _PORTS for word in _port(port, bus)),
    ]
    return Blueprint(tuple(words), (f"console={architecture.console}",))


def _shared(name: str, directory: Path, tag: str, bus: str) -> Iterator[str]:
    path = str(directory).replace(",", ",,")
    how = "security_model=none,readonly=on,multidevs=remap"
    yield from ("-fsdev", f"local,id={name},path={path},{how}")
    yield from ("-device", f"virtio-9p-{bus},fsdev={name},mount_tag={tag}")


def _port(name: str, bus: str) -> Iterator[str]:
    yield from ("-device", f"virtio-serial-{bus},id=controller-{name},max_ports=2")
    port = f"virtserialport,bus=controller-{name}.0,name=virtme.{name},chardev={name}"
    yield from ("-device", port)


def of_root(worker: Worker) -> Worker:
    """Return a worker that finds programs in the guest's root, and not where the host has them."""
    session = worker.session and {**worker.session, "program": worker.session["command"][0]}
    return replace(worker, environment={**worker.environment, "PATH": _PATH}, session=session)


def of_host(kernel: Kernel, worker: Worker, known: Inventory, root: Root) -> dict[str, Any]:
    """Return what a guest shows of the host, for `show_host` in guest/mounts.py."""
    tops = [
        entry.path
        for entry in os.scandir("/")
        if entry.is_dir(follow_symlinks=False) and entry.name not in _OF_SYSTEM
    ]
    needed = [str(path) for path in plain.needed_paths(kernel, worker.cwd, python=False)]
    needed.append(tempfile.gettempdir())
    needed += [entry for entry in known.sites if os.path.isdir(entry)]
    below = tuple(f"{top}/" for top in tops)
    # The guest's own /usr, as a working directory, stays the guest's.
    hidden = [path for path in needed if path.count("/") > 1 and not f"{path}/".startswith(below)]
    return {
        "tag": _HOST_TAG,
        "directories": [*tops, *dict.fromkeys(hidden)],
        "library": [root.library, known.standard],
        "python": [root.python, known.python] if known.environment else [],
        "sites": known.sites,
    }
