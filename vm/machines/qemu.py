"""The QEMU of this host: its name, its path, and the package that has it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pytest_bpflink.vm.machines.errors import MachineError

NAME = f"qemu-system-{os.uname().machine}"


def find() -> Path:
    """Return the program that emulates this machine's architecture. Raises MachineError."""
    program = shutil.which(NAME)
    if not program:
        raise MachineError(f"{NAME} is not installed: apt-get install {package()}")
    return Path(program)


def package() -> str:
    """Return the name of the Debian package that has QEMU for this machine."""
    packages = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
    return packages.get(os.uname().machine, "qemu-system")
