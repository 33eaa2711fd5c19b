"""The root of guests whose kernel has no 9p to mount the host's with: it is packed into the image.

Knows which of the host's files such a guest has: its Python with all installed packages, the C
libraries that these and libbpf need, busybox in place of other programs, and modules for network
devices. What changes from run to run, the project under test above all, is sent by `warm.parcel`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.cache import is_texts, recall, writable
from pytest_bpflink.vm.image import trees
from pytest_bpflink.vm.image.guest_image import BUSYBOX, in_order, unpacked
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bpflink.vm.image.cpio import Archive
    from pytest_bpflink.vm.image.inventory import Inventory

# Installers, parts of the standard library that no test uses, and directories in it that have their
# own entry in sys.path, or none.
_LEFT_OUT = frozenset(
    {
        "dist-packages",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pip",
        "site-packages",
        "test",
        "tkinter",
        "turtledemo",
    }
)
_FOR_BUILDING = re.compile(r"config-3\.\d+")

# A larger file is a compiled tool's, as mypy's.
_LARGEST = 32 << 20

_SURROUNDINGS = (
    "/bin",
    "/boot",
    "/etc/group",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
    "/home",
    "/mnt",
    "/opt",
    "/root",
    "/sbin",
    "/srv",
    "/tmp",  # noqa: S108
    "/usr/lib/locale/C.utf8",
    "/var/tmp",  # noqa: S108
)

# Devices, schedulers and classifiers of networks, congestion controls, connection tracking: BPF
# programs are tested with these. A kernel may lack some, or have them built in.
_MODULES = (
    "act_bpf",
    "bridge",
    "cls_bpf",
    "dummy",
    "ifb",
    "ipip",
    "macvlan",
    "nf_conntrack",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_tables",
    "pktgen",
    "sch_fq",
    "sch_ingress",
    "tcp_bbr",
    "tcp_dctcp",
    "tls",
    "tun",
    "veth",
    "vxlan",
    "xt_bpf",
)

# ldd's lines: "\tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x00007f...)".
_NEEDED = re.compile(r"=> (/.*) \(0x[0-9a-f]+\)$", re.MULTILINE)

# Prints the libraries that loading libbpf maps; the system may have none.
_FIND_LIBBPF = """
import ctypes
try:
    ctypes.CDLL("libbpf.so.1")
except OSError:
    raise SystemExit
for line in open("/proc/self/maps"):
    print(line.rstrip())
"""
_MAPPED = re.compile(r" (/.*\.so\S*)$", re.MULTILINE)


@dataclass(frozen=True)
class PackedRoot:
    """The host's files in a packed guest.

    `size` is about that of all files, in bytes. `digest` stands for paths, sizes and times of the
    files, since to read them all would take longer than to restore a guest.
    """

    directories: tuple[str, ...]
    files: tuple[str, ...]
    libraries: tuple[str, ...]
    size: int
    digest: str

    def add_to(self, archive: Archive) -> None:
        """Add these files to an image, with their compiled code."""
        for name in (*_SURROUNDINGS, *self.libraries, BUSYBOX):
            if os.path.exists(name):
                archive.add_as_it_is(Path(name))
        listed = programs.run([BUSYBOX, "--list-full"]).stdout.splitlines()
        for applet in map(Path("/").joinpath, listed):
            archive.add_link(applet.parent.resolve() / applet.name, BUSYBOX)
        files = [Path(name) for name in self.files]
        for file in (*files, *trees.compiled(files, lambda place: [place / "__pycache__"])):
            archive.add_as_it_is(file)


def take(inventory: Inventory, *, cache: Path) -> PackedRoot:
    """Return what a packed guest has of the host; CACHE remembers what takes long to find out.

    Raises ImageError if this host has no busybox.
    """
    if not os.path.exists(BUSYBOX):
        raise ImageError("busybox is needed: apt-get install busybox-static")
    directories = _directories(inventory)
    files, size, digest = [], 0, hashlib.sha256()
    for file in _files(directories):
        with suppress(OSError):  # it is just being replaced
            status = os.stat(file)
            if status.st_size <= _LARGEST and os.access(file, os.R_OK):
                files.append(str(file))
                # Compiled code is as large as its source.
                size += status.st_size * (2 if file.suffix == ".py" else 1)
                digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    known_as = f"{digest.hexdigest()} {_loader_cache_time()}"
    libraries = _libraries(inventory.python, files, known_as, cache=cache)
    for library in libraries:
        status = os.stat(library)
        size += status.st_size
        digest.update(f"{library}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return PackedRoot(directories, tuple(files), libraries, size, digest.hexdigest())


def wanted_modules(modules: Path) -> list[str]:
    """Return the modules to pack, by their names in the modules.dep of this directory."""
    listing = modules / "modules.dep"
    return in_order(listing, _MODULES) if listing.exists() else []


def add_modules(archive: Archive, modules: Path, *, release: str) -> None:
    """Add modules, unpacked, with indexes for busybox's modprobe."""
    # /lib may be a link to /usr/lib.
    place = Path("/lib").resolve() / "modules" / release
    wanted = wanted_modules(modules)
    for name in wanted:
        archive.add(place / _plain(name), unpacked(modules / name))
    lines = (line.partition(":") for line in _lines(modules / "modules.dep"))
    needs = [
        f"{_plain(name)}: {' '.join(map(_plain, others.split()))}\n"
        for name, _, others in lines
        if name in wanted
    ]
    archive.add(place / "modules.dep", "".join(needs).encode())
    names = {Path(name).name.partition(".ko")[0].replace("-", "_") for name in wanted}
    aliases = [
        f"{line}\n"
        for line in _lines(modules / "modules.alias")
        if line.rpartition(" ")[2] in names
    ]
    archive.add(place / "modules.alias", "".join(aliases).encode())
    built_in = "".join(line + "\n" for line in _lines(modules / "modules.builtin"))
    archive.add(place / "modules.builtin", built_in.encode())


def needed_libraries(files: Iterable[str]) -> list[str]:
    """Return the C libraries that the loader finds for these libraries."""
    return _NEEDED.findall(programs.run(["ldd", *files]).stdout) if files else []


def _directories(inventory: Inventory) -> tuple[str, ...]:
    """Return the directories of the standard library and of installed packages."""
    return tuple(
        entry
        for entry in inventory.path
        if os.path.isdir(entry)
        and (entry.endswith(("/site-packages", "/dist-packages")) or _is_standard(entry))
    )


def _is_standard(directory: str) -> bool:
    return directory.endswith("/lib-dynload") or os.path.exists(f"{directory}/os.py")


def _files(directories: Iterable[str]) -> Iterator[Path]:
    for directory in directories:
        tops = os.listdir(directory)
        skipped = [name for name in tops if name in _LEFT_OUT or _FOR_BUILDING.match(name)]
        for file in trees.files(Path(directory), skipped=skipped):
            # It needs a dozen libraries.
            if not file.name.startswith("_tkinter."):
                yield file


def _libraries(python: str, files: list[str], digest: str, *, cache: Path) -> tuple[str, ...]:
    """Return the C libraries that libbpf, and the extension modules among FILES, need."""
    name = f"packed-python-{hashlib.sha256(python.encode()).hexdigest()[:16]}.json"

    def recall_from(record: Path) -> list[str] | None:
        known = recall(record)
        libraries = known.get("libraries")
        if known.get("digest") != digest or not is_texts(libraries):
            return None
        return libraries if all(map(os.path.exists, libraries)) else None

    record = writable(cache / name, unless=recall_from)
    libraries = recall_from(record)
    if libraries is None:
        mapped = programs.run([python, "-c", _FIND_LIBBPF], cwd=Path("/")).stdout
        extensions = [file for file in files if re.search(r"\.so(\.|$)", file)]
        loaded = {name for file in _MAPPED.findall(mapped) for name in (file, *_links_to(file))}
        found = {*loaded, *needed_libraries(extensions)} - set(files)
        libraries = sorted(library for library in found if os.path.exists(library))
        make_directory(record.parent, mode=0o700)
        write_whole(record, json.dumps({"digest": digest, "libraries": libraries}).encode())
    return tuple(libraries)


def _links_to(library: str) -> list[str]:
    """Return the links beside a library by which the loader finds it."""
    entries = os.scandir(os.path.dirname(library))
    return [
        entry.path
        for entry in entries
        if entry.is_symlink() and os.path.realpath(entry.path) == library
    ]


def _loader_cache_time() -> int:
    """Return when a library was last installed: then ldconfig runs."""
    with suppress(OSError):
        return os.stat("/etc/ld.so.cache").st_mtime_ns
    return 0


def _lines(index: Path) -> list[str]:
    return index.read_text().splitlines() if index.exists() else []


def _plain(module: str) -> str:
    return f"{module.partition('.ko')[0]}.ko"
