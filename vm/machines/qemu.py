"""The QEMU of this host for an architecture: its name, its path, and the package that has it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pytest_bpflink.vm.architectures import ALL, Architecture, own
from pytest_bpflink.vm.machines.errors import MachineError

NAME = f"qemu-system-{os.uname().machine}"


def find(architecture: Architecture | None = None) -> Path:
    """Return the program that emulates an architecture, by default this machine's.

    Raises MachineError.
    """
    name = architecture.qemu if architecture else NAME
    program = shutil.which(name)
    if not program:
        raise MachineError(f"{name} is not installed: apt-get install {package(architecture)}")
    return Path(program)


def package(architecture: Architecture | None = None) -> str:
    """Return the name of the Debian package that has QEMU for an architecture."""
    known = architecture or ALL.get(own())
    return known.qemu_package if known else "qemu-system"
