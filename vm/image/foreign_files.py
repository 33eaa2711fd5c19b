"""The files of a guest of another architecture: the Python of its root, and the host's packages.

Of the host's packages only the modules in Python are of use there. `guest_image` adds the rest.
"""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.vm.image.cpio import Archive
    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.image.inventory import Inventory

# Parts of the standard library that no worker imports.
_LEFT_OUT = {"ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tests", "tkinter"}
_LEFT_OUT |= {"turtledemo", "venv"}


def executable(inventory: Inventory, root: Root) -> str:
    """Return the path of the guest's Python: the host's in a virtual environment, else the root's.

    By its path a Python finds its virtual environment.
    """
    return inventory.python if inventory.environment else root.python


def add(archive: Archive, inventory: Inventory, root: Root, *, code: bytes) -> str:
    """Add the Python of ROOT, the host's packages, and their CODE; return the Python's path."""
    for path in _of_root(root):
        archive.add_host_file(path, root=root.path)
    for module in (*inventory.packages, *inventory.plugin):
        archive.add_host_file(Path(module))
    if root.tag == inventory.tag:
        with zipfile.ZipFile(io.BytesIO(code)) as compiled:
            for name in compiled.namelist():
                if not inventory.is_standard(name):
                    archive.add(Path(name), compiled.read(name))
    python = executable(inventory, root)
    if inventory.environment:
        home = os.path.dirname(root.python)
        archive.add(inventory.environment / "pyvenv.cfg", f"home = {home}\n".encode())
        archive.add_link(Path(python), root.python)
    return python


def _of_root(root: Root) -> Iterator[Path]:
    """Yield the Python of a root, its standard library, and the libraries that they may load."""
    yield Path(root.python)
    top = f"{root.path}{root.library}"
    for directory, below, names in os.walk(top):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        inside = Path("/", os.path.relpath(directory, root.path))
        yield from (inside / name for name in names)
    # Programs name their loader by the link /lib.
    yield from (Path("/lib", path.name) for path in root.path.glob("usr/lib/ld*.so.*"))
    libraries = root.path.glob("usr/lib/*-linux-gnu/*.so*")
    yield from (Path("/", path.relative_to(root.path)) for path in libraries)
    yield Path("/bin/busybox")
