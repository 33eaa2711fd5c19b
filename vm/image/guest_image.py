"""The image of our own guests: the host's Python at the host's paths, modules, and the agent.

`inventory` lists the files of the host's Python, `cpio` writes the initramfs.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import struct
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import guest
from pytest_bpflink.vm.architectures import ALL, own
from pytest_bpflink.vm.image.cpio import Archive
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.kernels import drivers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_bpflink.vm.architectures import Architecture
    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.image.digests import Contents
    from pytest_bpflink.vm.image.inventory import Inventory

_AGENT = guest.DIRECTORY / "agent.py"
_PROGRAMS = tuple(
    guest.DIRECTORY / name for name in ("mounts.py", "preload.py", "session.py", "worker.py")
)

# Where the agent looks for its files (IMAGE in guest/agent.py).
_IMAGE = Path("/bpflink")
AGENT = _IMAGE / "agent.py"
_PYTHON = _IMAGE / "python"

# The drivers of the host's root and of the agent's ports; a kernel may have them built in. For
# hosts that are no PCs virtme-ng composes machines without PCI.
_MODULES = (
    "virtio_pci",
    *(() if own() == "amd64" else ("virtio_mmio",)),
    *("virtio_ccw", "virtio_console", "9pnet_virtio", "9p", "overlay"),
)

# The kernel reads so many bytes of a script's first line (BINPRM_BUF_SIZE, since Linux 5.1).
_LONGEST_LINE = 255

#: The program that packed guests have for all others.
BUSYBOX = "/bin/busybox"

# busybox is linked statically; another shell also loads a C library, which takes a guest six times
# as long as the rest of running it.
_SHELLS = f"{BUSYBOX} sh", "/bin/sh"

_PT_INTERP = 3


class DamagedError(Exception):
    """The compiled code of an inventory is not what it was when the inventory was taken."""


def own_digest() -> str:
    """Return a digest of the project's own programs, which are in each image."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (_AGENT, *_PROGRAMS))).hexdigest()


def shell() -> str:
    """Return the shell for the guest's modprobe script: the first of _SHELLS that the host has."""
    return next(each for each in _SHELLS if os.path.exists(each.split()[0]))


def needed_modules(modules: Path, *, contents: Contents | None = None) -> list[Path]:
    """Return the kernel modules, below MODULES, that an image has, in the order to load them."""
    listing = modules / "modules.dep"
    if not listing.exists():
        return []
    names = contents.ask(listing, in_order) if contents else in_order(listing)
    return [modules / name for name in names]


def build(
    destination: Path,
    inventory: Inventory,
    *,
    modules: Path | None,
    architecture: Architecture | None = None,
    root: Root | None = None,
    add_root: Callable[[Archive], None] | None = None,
) -> None:
    """Write a guest's image. MODULES is the directory of the kernel's modules, if it has one.

    ADD_ROOT adds the root of a packed guest; any other guest mounts the host's. A guest of another
    ARCHITECTURE than this machine's has the Python of ROOT.

    Raises DamagedError, ImageError.
    """
    known = architecture or ALL.get(own())
    if known is None:
        raise ImageError(f"none of our own is known for {own()}")
    packed = inventory.code.read_bytes()
    if hashlib.sha256(packed).hexdigest() != inventory.code_digest:
        raise DamagedError(f"{inventory.code} is damaged")
    with destination.open("wb") as file, Archive(file) as archive:
        archive.add_console()
        if root:
            from pytest_bpflink.vm.image import foreign_files

            python = foreign_files.add(archive, inventory, root, code=packed)
        else:
            python = inventory.python
            _add_python(archive, inventory, code=packed)
        loaded = []
        for module in needed_modules(modules) if modules else ():
            name = module.name.partition(".ko")[0]
            archive.add(_IMAGE / "modules" / name, unpacked(module))
            loaded.append(name)
        for program in _PROGRAMS:
            archive.add(_IMAGE / program.name, program.read_bytes())
        if add_root:
            add_root(archive)
        archive.add_link(_PYTHON, python)
        archive.add(AGENT, _first_line(python) + _AGENT.read_bytes(), mode=0o755)
        settings = {
            "executable": python,
            "python": startup(inventory, root),
            "path": inventory.sites if root else inventory.path,
            "modules": loaded,
            "signs": {
                option: sign
                for option, sign in drivers.signs(known.name).items()
                if not (add_root and option in drivers.OF_9P)
            },
            "finit_module": known.finit_module,
            "shell": _SHELLS[0] if root else shell(),
            # The agent finds those of another architecture, which no program has listed here.
            "libraries": None if root else inventory.libraries,
            "directories": None if root else inventory.directories(),
            "plugin": inventory.plugin_digest(),
            "packed": add_root is not None,
            "sent": [] if inventory.has_installed_plugin else inventory.plugin_directories(),
        }
        archive.add(_IMAGE / "settings.json", json.dumps(settings).encode())


def startup(inventory: Inventory, root: Root | None) -> dict[str, str]:
    """Return the variables that the guest's Python starts with."""
    # The directory that PYTHONHOME names has a Python of the host.
    left_out = {"PYTHONHOME"} if root else ()
    return {name: value for name, value in inventory.startup.items() if name not in left_out}


def _add_python(archive: Archive, inventory: Inventory, *, code: bytes) -> None:
    parts = (inventory.files, inventory.plugin, inventory.libraries, surroundings(inventory))
    for path in itertools.chain(*parts):
        archive.add_host_file(Path(path))
    with zipfile.ZipFile(io.BytesIO(code)) as compiled:
        for name in compiled.namelist():
            archive.add(Path(name), compiled.read(name))


def _first_line(python: str) -> bytes:
    """Return the agent's first line, which names its Python, or else the link to that."""
    line = os.fsencode(f"#!{python} -u\n")
    # A path ends at white space.
    if len(line) <= _LONGEST_LINE and len(python.split()) == 1:
        return line
    return f"#!{_PYTHON} -u\n".encode()


def surroundings(inventory: Inventory) -> Iterator[str]:
    """Yield files that Python and its loader look for and that `preload` does not list."""
    yield inventory.python
    if inventory.environment:
        yield str(inventory.environment / "pyvenv.cfg")
    yield _interpreter(Path(inventory.python).resolve())
    if Path("/etc/ld.so.cache").exists():
        yield "/etc/ld.so.cache"
    # The loader finds libraries by names that are links, in directories that may be links.
    yield from (link for link in ("/lib", "/lib64", "/usr/lib64") if Path(link).is_symlink())
    wanted = {os.path.realpath(library) for library in inventory.libraries}
    for directory in {os.path.dirname(library) for library in wanted}:
        for entry in os.scandir(directory):
            if entry.is_symlink() and os.path.realpath(entry.path) in wanted:
                yield entry.path


def _interpreter(executable: Path) -> str:
    """Return the loader that an executable names (its PT_INTERP; ELF of 64 bits)."""
    data = executable.read_bytes()
    (start,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for index in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, start + index * size)
        if kind == _PT_INTERP:
            return data[offset : offset + length].rstrip(b"\0").decode()
    raise ImageError(f"{executable} is linked statically, or no program")


def in_order(listing: Path, wanted: Iterable[str] = _MODULES) -> list[str]:
    """Return the modules of a modules.dep with these names, each after the modules it needs."""
    needs: dict[str, list[str]] = {}
    for line in listing.read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {_name(path): path for path in needs}
    ordered: dict[str, None] = {}

    def add(path: str) -> None:
        for other in needs[path]:
            if other not in ordered:
                add(other)
        ordered[path] = None

    for name in wanted:
        if name in by_name:
            add(by_name[name])
    return list(ordered)


def _name(path: str) -> str:
    return os.path.basename(path).partition(".ko")[0].replace("-", "_")


def unpacked(module: Path) -> bytes:
    """Return a module, unpacked: before Linux 5.17 a kernel can't do it. Raises ImageError."""
    data = module.read_bytes()
    match module.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            command = ["zstd", "--decompress", "--stdout", "--quiet"]
            try:
                return subprocess.run(command, input=data, capture_output=True, check=True).stdout
            except FileNotFoundError:
                raise ImageError("zstd is needed to unpack modules: apt-get install zstd") from None
    return data
