"""The QEMU command of our own guests: virtme-ng's command, changed to boot our image.

Knows the words of that command. `cold` and `warm` choose when to run it, `machine` runs it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from pytest_bpflink.vm.image import guest_image
from pytest_bpflink.vm.machines import virtme

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

# Ports that only virtme-ng's init uses; each costs time at every start.
_UNUSED_PORTS = ("dev_stdout", "dev_stderr", "ret")

# A machine shares a second directory of the host, beside the root. Its path is an option of each
# start (`share`), so that no save depends on it.
_ROOT_TAG = "mount_tag=/dev/root"
SHARE_TAG = "bpflink"
SHARE = "writable"

_PATHS = re.compile("path=(,,|[^,])*")

# The options of a guest that boots; one that is restored has none of them.
_BOOT_OPTIONS = ("-kernel", "-initrd", "-append")


@dataclass(frozen=True)
class Blueprint:
    """A machine: QEMU's command, and the kernel parameters of its consoles."""

    command: tuple[str, ...]
    consoles: tuple[str, ...]

    @classmethod
    def draw(
        cls,
        kernel: Kernel,
        *,
        acceleration: Acceleration,
        directory: Path,
        memory_mib: int,
        cpus: int,
        packed: bool = False,
    ) -> Self:
        """Have virtme-ng compose the machine; if PACKED, it shares no directory.

        Raises ComposeError.
        """
        composed = virtme.compose(
            kernel,
            acceleration=acceleration,
            directory=directory,
            cwd=directory,
            memory_mib=memory_mib,
            cpus=cpus,
            # virtme-ng makes the virtio ports only if the guest has something to run.
            options=["--script-sh", "true"],
            modules=False,
        )
        command = _without_slow(_without_unused(composed))
        return cls(
            command=tuple(_without_shares(command) if packed else _with_share(command)),
            consoles=tuple(virtme.consoles(composed)),
        )

    @property
    def machine(self) -> list[str]:
        """The words of the command that a saved guest depends on: all but names and paths."""
        words = zip(("", *self.command), self.command, strict=False)
        return [_PATHS.sub("path=", word) for option, word in words if option != "-name"]

    def booting(self, *, image: Path, initramfs: Path, parameters: Sequence[str]) -> list[str]:
        """Return the options that boot IMAGE with the consoles' and these kernel PARAMETERS."""
        append = " ".join([*self.consoles, *parameters])
        return ["-kernel", str(image), "-initrd", str(initramfs), "-append", append]


def kernel_parameters(
    kernel: Kernel, *, acceleration: Acceleration, append: Sequence[str]
) -> list[str]:
    """Return the kernel parameters of one of our own guests."""
    return [
        *virtme.kernel_options(kernel),
        # An emulated processor does not speculate, and retpolines take a tenth of its time. Not
        # mitigations=off: with it the verifier accepts more programs since Linux 6.7.
        *([] if acceleration.kvm else ["spectre_v2=off"]),
        # Freed pages are then zero, and become holes in the save.
        "init_on_free=1",
        # The kernel's self-tests of its cryptography take 0.6 s under emulation.
        "cryptomgr.notests",
        # A tmpfs may take half of the memory, which in a small guest is too little for the image.
        "rootfstype=ramfs",
        # A script: the kernel hands parameters that it does not know to init as arguments, and a
        # Python would take the first one for its program.
        f"rdinit={guest_image.AGENT}",
        # Init's environment: sets have the same order in all guests, whenever each was saved.
        "PYTHONHASHSEED=0",
        *append,
    ]


def memory(*, mib: int) -> list[str]:
    """Return the options for memory that is restored from the state, and not from a file."""
    backend = f"memory-backend-ram,id=ram,size={mib}M"
    return ["-object", backend, "-machine", "memory-backend=ram"]


def memory_file(path: Path, *, mib: int, shared: bool) -> list[str]:
    """Return the options that map PATH as the memory, shared with the file or copy-on-write."""
    escaped = str(path).replace(",", ",,")
    share = "on" if shared else "off"
    backend = f"memory-backend-file,id=ram,size={mib}M,mem-path={escaped},share={share}"
    return ["-object", backend, "-machine", "memory-backend=ram"]


def share(directory: Path, *, writable: bool) -> list[str]:
    """Return the options that share a directory with the guest, under `SHARE_TAG`."""
    escaped = str(directory).replace(",", ",,")
    options = "security_model=none,multidevs=remap" + ("" if writable else ",readonly=on")
    return ["-fsdev", f"local,id={SHARE},path={escaped},{options}"]


def monitor(descriptor: int) -> list[str]:
    """Return the options for a monitor on a connected socket."""
    chardev = f"socket,id=monitor,fd={descriptor}"
    return ["-chardev", chardev, "-mon", "chardev=monitor,mode=control"]


def _with_share(command: Iterable[str]) -> Iterator[str]:
    """Add a device for the share, of the same kind as the device for the root."""
    for word in command:
        yield word
        if word.endswith(_ROOT_TAG):
            yield from ("-device", f"{word.partition(',')[0]},fsdev={SHARE},mount_tag={SHARE_TAG}")


def _without_shares(command: Iterable[str]) -> Iterator[str]:
    """Leave out the root of the host, and its device."""
    words = list(command)
    pairs = zip(words, [*words[1:], ""], strict=True)
    shares = [at for at, (option, word) in enumerate(pairs) if _is_share(option, word)]
    left_out = {*shares, *(at + 1 for at in shares)}
    yield from (word for at, word in enumerate(words) if at not in left_out)


def _is_share(option: str, word: str) -> bool:
    return option == "-fsdev" or (option == "-device" and word.startswith("virtio-9p"))


def _without_slow(command: Iterable[str]) -> Iterator[str]:
    """Leave out the features erms and fsrm of an emulated processor.

    With erms, kernel and libc clear and copy memory by x86's "enhanced" string instructions, which
    QEMU's TCG executes byte by byte. Linux 5.10 and 6.1 take fsrm ("fast short" ones) to imply
    erms, and hang as they boot with fsrm alone, which QEMU 10 emulates and QEMU 7.2 does not.
    """
    options = list(command)
    for option, word in zip(["", *options], options, strict=False):
        slow = (option, word) == ("-cpu", "max") and os.uname().machine == "x86_64"
        yield f"{word},-erms,-fsrm" if slow else word


def _without_unused(command: Sequence[str]) -> Iterator[str]:
    """Leave out boot options and unused ports, and limit the ports of each controller.

    A controller has two queues for each of up to 31 ports by default, and QEMU's main loop looks at
    all queues whenever it wakes. Each has two ports here: the first is reserved for a console.
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
