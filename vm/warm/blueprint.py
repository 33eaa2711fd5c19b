"""The QEMU command of our own guests: what virtme-ng composes, with another image in it.

Knows how that command is taken apart. Processes are `machine`'s business, the order of things that
of `warm`.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_bpflink.vm.image import guest_image
from pytest_bpflink.vm.machines import virtme

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

# Ports that only virtme-ng's init uses; each costs time at every start.
_UNUSED_PORTS = ("dev_stdout", "dev_stderr", "ret")

# Beside the host's root a machine shares another directory, which it is told at each start: what is
# saved does not depend on it.
_ROOT_TAG = "mount_tag=/dev/root"
SHARE_TAG = "bpflink"
_SHARE = "writable"

# What differs between a guest that boots and one that is restored.
_BOOT_OPTIONS = ("-kernel", "-initrd", "-append")


@dataclass(frozen=True)
class Blueprint:
    """A machine: how QEMU makes it, where the console is, where its kernel's modules are.

    `modules` is as seen from `Kernel.modules`, for the kernel may be elsewhere at the next start.
    """

    command: tuple[str, ...]
    consoles: tuple[str, ...]
    modules: str | None

    @classmethod
    def draw(
        cls,
        kernel: Kernel,
        *,
        acceleration: Acceleration,
        directory: Path,
        memory_mib: int,
        cpus: int,
    ) -> Self:
        """Have virtme-ng compose the machine. Raises ComposeError."""
        composed = virtme.compose(
            kernel,
            acceleration=acceleration,
            directory=directory,
            cwd=directory,
            memory_mib=memory_mib,
            cpus=cpus,
            # Only where something is to be run are there ports to talk through.
            options=["--script-sh", "true"],
        )
        parameters = shlex.split(composed[composed.index("-append") + 1])
        modules = [word for word in parameters if word.startswith("virtme_link_mods=")]
        return cls(
            command=tuple(_with_share(_without_slow(_without_unused(composed)))),
            consoles=tuple(
                word for word in parameters if word.startswith(("console=", "earlyprintk="))
            ),
            modules=_seen_from(kernel.modules, modules[0].partition("=")[2]) if modules else None,
        )

    def modules_of(self, kernel: Kernel) -> Path | None:
        """Return the directory that has this kernel's modules, if it has any."""
        if kernel.modules is None or self.modules is None:
            return None
        return kernel.modules / self.modules

    def booting(self, *, image: Path, initramfs: Path, init: Sequence[str]) -> list[str]:
        """Return the options that boot an image; INIT is what the kernel is told of its init."""
        append = " ".join([*self.consoles, *init])
        return ["-kernel", str(image), "-initrd", str(initramfs), "-append", append]


def _seen_from(root: Path | None, path: str) -> str:
    real = Path(path).resolve()
    if root is None or not real.is_relative_to(root.resolve()):
        return path
    return str(real.relative_to(root.resolve()))


def kernel_parameters(
    kernel: Kernel, *, acceleration: Acceleration, append: Sequence[str]
) -> list[str]:
    """Return what the kernel of one of our own guests is told."""
    return [
        *virtme.kernel_options(kernel),
        # An emulated processor does not speculate, and detours at indirect calls take a tenth of
        # its time. Not mitigations=off, which has the verifier let more programs pass (6.7).
        *([] if acceleration.kvm else ["spectre_v2=off"]),
        # Freed memory is then saved as holes.
        "init_on_free=1",
        # Emulated, the tests that a kernel has of its cryptography take 0.6 s.
        "cryptomgr.notests",
        # A tmpfs would have half of the memory, and the image needs more where there is little.
        "rootfstype=ramfs",
        # A script, for what the kernel does not know it hands to init as arguments: a Python would
        # take the first for its program.
        f"rdinit={guest_image.AGENT}",
        *append,
    ]


def memory(*, mib: int) -> list[str]:
    """Return the options for memory that is read from what was saved with a `memory_file`."""
    backend = f"memory-backend-ram,id=ram,size={mib}M"
    return ["-object", backend, "-machine", "memory-backend=ram"]


def memory_file(path: Path, *, mib: int, shared: bool) -> list[str]:
    """Return the options that make a file the machine's memory: itself if shared, else its copy."""
    escaped = str(path).replace(",", ",,")
    share = "on" if shared else "off"
    backend = f"memory-backend-file,id=ram,size={mib}M,mem-path={escaped},share={share}"
    return ["-object", backend, "-machine", "memory-backend=ram"]


def share(directory: Path, *, writable: bool) -> list[str]:
    """Return the options that share a directory, under `SHARE_TAG`."""
    escaped = str(directory).replace(",", ",,")
    options = "security_model=none,multidevs=remap" + ("" if writable else ",readonly=on")
    return ["-fsdev", f"local,id={_SHARE},path={escaped},{options}"]


def monitor(descriptor: int) -> list[str]:
    """Return the options for a monitor on a connected socket."""
    chardev = f"socket,id=monitor,fd={descriptor}"
    return ["-chardev", chardev, "-mon", "chardev=monitor,mode=control"]


def _with_share(command: Iterable[str]) -> Iterator[str]:
    """Add a device for the share, of the same kind as the root's is."""
    for word in command:
        yield word
        if word.endswith(_ROOT_TAG):
            yield from ("-device", f"{word.partition(',')[0]},fsdev={_SHARE},mount_tag={SHARE_TAG}")


def _without_slow(command: Iterable[str]) -> Iterator[str]:
    """Leave out what an emulated processor claims to do fast, and does byte by byte.

    QEMU's TCG has the "enhanced" string instructions of x86, by which kernel and libc then clear
    and copy memory.
    """
    options = list(command)
    for option, word in zip(["", *options], options, strict=False):
        slow = (option, word) == ("-cpu", "max") and os.uname().machine == "x86_64"
        yield f"{word},-erms" if slow else word


def _without_unused(command: Sequence[str]) -> Iterator[str]:
    """Leave out boot options, and ports that nobody uses, and room for more.

    Each controller has two queues a port, for 31 ports if it is not told otherwise, and QEMU's main
    loop looks at all of them whenever it wakes. The first port is kept for a console.
    """
    words = list(command)
    for port in _UNUSED_PORTS:
        where = next((at for at, word in enumerate(words) if f",id={port}," in word), None)
        # -chardev FILE -device virtio-serial-pci -device virtserialport,...
        if where is not None and words[where + 4].endswith(f"chardev={port}"):
            del words[where - 1 : where + 5]
    skip = False
    for word in words:
        if not skip and word not in _BOOT_OPTIONS:
            yield f"{word},max_ports=2" if word == "virtio-serial-pci" else word
        skip = not skip and word in _BOOT_OPTIONS
