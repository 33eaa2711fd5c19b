"""The image of our own guests: the host's Python at its own paths, modules, and the agent.

Knows which files that takes: those that a Python of the host has open when it has imported what a
guest shall import. How an initramfs is written is `cpio`'s business.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cpio import Archive

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_GUEST = Path(__file__).resolve().parent / "guest"
_PROGRAMS = tuple(_GUEST / name for name in ("agent.py", "mounts.py", "preload.py"))

# Where the agent looks (agent.IMAGE).
_IMAGE = Path("/bpflink")
AGENT = _IMAGE / "agent.py"

# What reaches the host's root, and the agent's ports; modules or built in.
_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")

# What Python reads from its environment only once, when it starts; the rest the agent sets later.
_STARTUP_VARIABLES = (
    "PYTHONDEVMODE",
    "PYTHONFAULTHANDLER",
    "PYTHONHASHSEED",
    "PYTHONINTMAXSTRDIGITS",
    "PYTHONIOENCODING",
    "PYTHONMALLOC",
    "PYTHONNOUSERSITE",
    "PYTHONOPTIMIZE",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONSAFEPATH",
    "PYTHONTRACEMALLOC",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
)

_PT_INTERP = 3


class ImageError(Exception):
    """No image can be made for this kernel or this Python; the message says why."""


@dataclass(frozen=True)
class Inventory:
    """A Python of the host, and the files that a guest needs of it; `digest` is of all content."""

    python: str
    startup: Mapping[str, str]
    path: tuple[str, ...]
    files: tuple[str, ...]
    libraries: tuple[str, ...]
    digest: str


def take_inventory(python: str, environment: Mapping[str, str], *, cache: Path) -> Inventory:
    """Return what a guest needs of a Python, remembered in CACHE until one of its files changes.

    Raises ImageError if this Python has no pytest or does not run.
    """
    startup = {name: environment[name] for name in _STARTUP_VARIABLES if name in environment}
    # What is listed is what `preload` imports.
    asked = json.dumps([python, startup, environment.get("PYTHONPATH", ""), own_digest()])
    record = cache / f"python-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
    try:
        known = json.loads(record.read_text())
        if known["stats"] == _stats([*known["files"], *known["libraries"]]):
            return _inventory(python, startup, known)
    except (OSError, ValueError, LookupError, TypeError):
        pass  # not there, damaged, or something changed
    described = _describe(python, environment)
    paths = [*described["files"], *described["libraries"]]
    digest = hashlib.sha256()
    stats = _stats(paths)
    for path in paths:
        digest.update(f"{path}\0{Path(path).stat().st_size}\0".encode() + Path(path).read_bytes())
    known = {**described, "stats": stats, "digest": digest.hexdigest()}
    cache.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(known))
    temporary.rename(record)
    return _inventory(python, startup, known)


def own_digest() -> str:
    """Return a digest of what the project puts into each image."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _PROGRAMS)).hexdigest()


def build(destination: Path, inventory: Inventory, *, modules: Path | None) -> None:
    """Write a guest's image. MODULES is the kernel's own directory of modules, if it has one.

    Raises ImageError.
    """
    with destination.open("wb") as file, Archive(file) as archive:
        archive.add_console()
        for path in (*inventory.files, *inventory.libraries, *_surroundings(inventory)):
            archive.add_host_file(Path(path))
        loaded = []
        for module in _in_order(modules):
            name = module.name.partition(".ko")[0]
            archive.add(_IMAGE / "modules" / name, _unpacked(module))
            loaded.append(name)
        for program in _PROGRAMS:
            archive.add(_IMAGE / program.name, program.read_bytes())
        settings = {
            "python": dict(inventory.startup),
            "path": inventory.path,
            "modules": loaded,
            "libraries": inventory.libraries,
        }
        archive.add(_IMAGE / "settings.json", json.dumps(settings).encode())


def _inventory(
    python: str, startup: Mapping[str, str], known: Mapping[str, list[str]]
) -> Inventory:
    return Inventory(
        python=python,
        startup=startup,
        path=tuple(known["path"]),
        files=tuple(known["files"]),
        libraries=tuple(known["libraries"]),
        digest=str(known["digest"]),
    )


def _stats(paths: Iterable[str]) -> list[list[int]]:
    found = []
    for path in paths:
        stat = os.stat(path)
        # The time of the last change of the inode can't be set back.
        found.append([stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns])
    return found


def _describe(python: str, environment: Mapping[str, str]) -> dict[str, list[str]]:
    done = subprocess.run(
        [python, str(_GUEST / "preload.py")],
        env=dict(environment),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), "it said nothing")
        raise ImageError(f"{python} can't tell what a guest needs of it: {last}")
    described: dict[str, list[str]] = json.loads(done.stdout)
    if not any(path.endswith("/_pytest/__init__.py") for path in described["files"]):
        raise ImageError(f"{python} has no pytest of its own (in a zip file, perhaps)")
    return described


def _surroundings(inventory: Inventory) -> Iterator[str]:
    """Yield what Python and its loader look for and never have open."""
    yield inventory.python
    prefix = Path(inventory.python).parent.parent
    if (prefix / "pyvenv.cfg").exists():
        yield str(prefix / "pyvenv.cfg")
    yield _interpreter(Path(inventory.python).resolve())
    if Path("/etc/ld.so.cache").exists():
        yield "/etc/ld.so.cache"
    # Libraries are looked for by names that are links to them, in directories that may be links.
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


def _in_order(modules: Path | None) -> list[Path]:
    """Return the modules that a guest must load, each after what it needs."""
    if modules is None or not (modules / "modules.dep").exists():
        return []
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {_name(path): path for path in needs}
    ordered: dict[str, None] = {}

    def add(path: str) -> None:
        for other in needs[path]:
            if other not in ordered:
                add(other)
        ordered[path] = None

    for name in _MODULES:
        if name in by_name:
            add(by_name[name])
    return [modules / path for path in ordered]


def _name(path: str) -> str:
    return os.path.basename(path).partition(".ko")[0].replace("-", "_")


def _unpacked(module: Path) -> bytes:
    # Before Linux 5.17 the kernel itself can't.
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
