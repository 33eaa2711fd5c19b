"""The architectures that kernels are run on: what Debian, Linux, QEMU and clang call each.

Guests of another architecture than this machine's are emulated. Knows names and numbers only.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    `name` is Debian's, `machine` the one of `uname -m`. `qemu_package` has the program that
    emulates it. `machine_options` are QEMU's options for its machine and processor, `bus` ends the
    names of its virtio devices, and `console` is the device of its first serial console. `driver`
    is the kernel's option for that bus. `elf` is its number in ELF files (EM_*), `finit_module` the
    number of that system call.
    """

    name: str
    machine: str
    qemu_package: str
    machine_options: tuple[str, ...]
    bus: Literal["pci", "ccw"]
    console: str
    driver: str
    elf: int
    finit_module: int
    byte_order: Literal["little", "big"] = "little"

    @property
    def qemu(self) -> str:
        """The name of the program that emulates it."""
        return f"qemu-system-{self.machine}"

    @property
    def triplet(self) -> str:
        """The name of its directories of libraries and headers in Debian."""
        return f"{self.machine}-linux-gnu"


ALL = {
    each.name: each
    for each in (
        Architecture(
            name="amd64",
            machine="x86_64",
            qemu_package="qemu-system-x86",
            machine_options=("-machine", "q35", "-cpu", "max,-erms"),
            bus="pci",
            console="ttyS0",
            driver="VIRTIO_PCI",
            elf=62,
            finit_module=313,
        ),
        Architecture(
            name="arm64",
            machine="aarch64",
            qemu_package="qemu-system-arm",
            # Emulating the pointer authentication of `max` takes as long as all the rest.
            machine_options=("-machine", "virt", "-cpu", "cortex-a76"),
            bus="pci",
            console="ttyAMA0",
            driver="VIRTIO_PCI",
            elf=183,
            finit_module=273,
        ),
        Architecture(
            name="s390x",
            machine="s390x",
            qemu_package="qemu-system-misc",
            machine_options=("-machine", "s390-ccw-virtio", "-cpu", "max"),
            bus="ccw",
            console="ttysclp0",
            driver="S390_GUEST",
            elf=22,
            finit_module=344,
            byte_order="big",
        ),
        Architecture(
            name="riscv64",
            machine="riscv64",
            qemu_package="qemu-system-misc",
            machine_options=("-machine", "virt", "-cpu", "rv64"),
            bus="pci",
            console="ttyS0",
            driver="VIRTIO_PCI",
            elf=243,
            finit_module=273,
        ),
    )
}
"""Every architecture, by Debian's name of it."""


# What an image of each begins with, and where: x86's and s390's boot protocols, the headers of
# arm64 and riscv64 (Documentation/arch/*/boot*.rst, arch/s390/boot/head.S).
_SIGNS = (
    ("amd64", 0x202, b"HdrS"),
    ("arm64", 0x38, b"ARMd"),
    ("riscv64", 0x38, b"RSC\x05"),
    ("s390x", 0x10008, b"S390EP"),
)
_ELF = b"\x7fELF"


def own() -> str:
    """Return the name of this machine's architecture; that of `uname -m` if it is none of `ALL`."""
    machine = os.uname().machine
    return next((each.name for each in ALL.values() if each.machine == machine), machine)


def split(spec: str) -> tuple[str, str]:
    """Split a SPEC such as `arm64:6.12` into its architecture, empty for none, and the rest."""
    name, colon, rest = spec.partition(":")
    return (name, rest) if colon and name in ALL else ("", spec)


def of_image(image: Path) -> str:
    """Return the name of the architecture that a kernel's image is made for; empty if unknown."""
    with image.open("rb") as file:
        start = file.read(_SIGNS[-1][1] + 16)
    if start.startswith(_ELF) and len(start) > 20:
        (number,) = struct.unpack_from(">H" if start[5] == 2 else "<H", start, 18)
        return next((each.name for each in ALL.values() if each.elf == number), "")
    return next((name for name, at, sign in _SIGNS if start[at : at + len(sign)] == sign), "")
