"""A libbpf that is not the one that this process uses."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_SHOW_MAPS = """
from pytest_bpflink.binding import libbpf
libbpf.version()
print(open("/proc/self/maps").read())
"""


def copy_system_libbpf(destination: Path) -> Path:
    """Copy the libbpf that the dynamic linker finds, and return the copy's path."""
    # A new process loads no other libbpf; this one may have several in its maps.
    maps = subprocess.check_output([sys.executable, "-c", _SHOW_MAPS], text=True).splitlines()
    (system,) = {line.split()[-1] for line in maps if "libbpf.so" in line}
    return Path(shutil.copy(system, destination))
