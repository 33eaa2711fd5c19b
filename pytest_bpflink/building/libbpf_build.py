"""libbpf from source: a tree on this machine, or the distribution's source package.

libbpf's own `make` builds each once, into the cache. A directory in the cache gets its name once
the library in it is complete. Nothing is written into a source tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.building.libbpf_library import NEWEST, LibbpfError, check
from pytest_bpflink.vm.cache import cache_part, is_trusted_tree, locked
from pytest_bpflink.vm.kernels.apt import Apt, AptError, stanzas
from pytest_bpflink.vm.kernels.releases import version_key
from pytest_bpflink.vm.trust import withdraw

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_bpflink.system.progress import Progress

_BUILDING = ".building-"

# Files that a build inside the tree leaves there.
_MADE = r"\.(a|cmd|d|o|pc|so(\.[\d.]+)?)$"

# The first have the newest release; reading their lists takes a quarter of reading all lists.
_SUITES = (
    ("sid", "experimental"),
    ("bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky"),
)


def version(spec: str, progress: Progress) -> Path:
    """Return the newest libbpf that matches a release, in full or in part, or `newest`.

    Where a matching release is built already, no mirror is read, except for `newest`. Raises
    LibbpfError.
    """
    built = _newest(spec, _built())
    if built and spec != NEWEST:
        return _library_in(built.path)
    with _cache_locked(progress):
        package = _find(spec, progress)
        if isinstance(package, str):
            package = _newest_built(spec, package, progress)
        if not _is_built(package.path):
            _build_package(package, progress)
        return _library_in(package.path)


def tree(directory: Path, progress: Progress) -> Path:
    """Return the libbpf of a source tree, built anew when a file in the tree has changed.

    The tree is libbpf's own (with `src/libbpf.c`), or the kernel's. Raises LibbpfError.
    """
    layout = _Layout.of(directory)
    built = _root() / f"tree-{layout.digest()}"
    with _cache_locked(progress):
        if not _is_built(built):
            progress(f"building libbpf of {directory}")
            with _scratch() as scratch:
                _make(layout, scratch, built)
    return _library_in(built)


@dataclass(frozen=True)
class _Package:
    """A source package of libbpf, by its Debian version; `path` is the directory of its build."""

    version: str
    suites: tuple[str, ...] = ()

    @property
    def upstream(self) -> str:
        return self.version.rpartition("-")[0]

    @property
    def path(self) -> Path:
        return _root() / self.version

    def __str__(self) -> str:
        return self.upstream


@dataclass(frozen=True)
class _Layout:
    """A source tree: directory of the Makefile, make's variable for the output, and sources."""

    makefile: Path
    output: str
    sources: tuple[Path, ...]

    @classmethod
    def of(cls, tree: Path) -> _Layout:
        if (tree / "tools/lib/bpf/libbpf.c").exists():
            # tools/lib/bpf/Makefile uses these directories, and appends file names to OUTPUT.
            parts = ("lib/bpf", "include", "build", "scripts", "arch")
            sources = tuple(tree / "tools" / part for part in parts)
            return cls(tree / "tools/lib/bpf", "OUTPUT={}/", sources)
        for root in (tree, tree.parent):
            if (root / "src/libbpf.c").exists() and tree in {root, root / "src"}:
                return cls(root / "src", "OBJDIR={}", (root / "src", root / "include"))
        raise LibbpfError(
            f"{tree} is no source tree of libbpf: it has neither src/libbpf.c nor"
            " tools/lib/bpf/libbpf.c, as the kernel's tree has"
        )

    def digest(self) -> str:
        """Return a digest of the sources, and of the variables that `make` reads."""
        whole = hashlib.sha256()
        for name in ("CC", "CFLAGS", "EXTRA_CFLAGS", "LDFLAGS", "EXTRA_LDFLAGS"):
            whole.update(f"{name}={os.environ.get(name)}\n".encode())
        for file in sorted(path for part in self.sources for path in part.rglob("*")):
            if file.is_file() and not re.search(_MADE, file.name):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                whole.update(f"{file}\n{content}\n".encode())
        return whole.hexdigest()[:32]


def _root() -> Path:
    return cache_part("libbpf")


def _built() -> list[_Package]:
    return [_Package(path.name) for path in _root().glob("[0-9]*-*") if _is_built(path)]


def _is_built(directory: Path) -> bool:
    """Whether a libbpf is there that no other user may have written."""
    return any(directory.glob("libbpf.so.*")) and is_trusted_tree(directory)


def _newest(spec: str, packages: Iterable[_Package]) -> _Package | None:
    matching = (
        package
        for package in packages
        if spec in {NEWEST, package.upstream} or package.upstream.startswith(f"{spec}.")
    )
    return max(matching, key=lambda package: version_key(package.version), default=None)


def _library_in(directory: Path) -> Path:
    # The full name, libbpf.so.1.7.0, which shows the release.
    return max(directory.glob("libbpf.so.*"), key=lambda path: len(path.name))


@contextlib.contextmanager
def _cache_locked(progress: Progress) -> Iterator[None]:
    waiting = "waiting for another run that is building a libbpf"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                locked(_root(), unfinished=_BUILDING, waits=lambda: progress(waiting))
            )
        except OSError as error:
            raise LibbpfError(
                f"{_root()}, where it would be built, can't be written: {error.strerror};"
                " BPFLINK_CACHE names another directory"
            ) from error
        yield


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=_root()) as directory:
        yield Path(directory)


def _find(spec: str, progress: Progress) -> _Package | str:
    """Return the newest package that matches, or why the lists of packages can't be read."""
    offered: list[_Package] = []
    for suites in _SUITES:
        try:
            fault = _apt(suites).update(lambda text: progress(f"libbpf {spec}: {text}"))
        except AptError as error:
            hint = "give the path of a shared object or of a source tree"
            raise LibbpfError(f"{error} to fetch libbpf's source from: {hint}") from error
        if fault:
            return fault
        offered += _offered(suites)
        found = _newest(spec, offered)
        if found:
            return found
    names = sorted({package.upstream for package in offered}, key=version_key)
    raise LibbpfError(f"the distribution has no libbpf {spec}; it has {', '.join(names)}")


def _newest_built(spec: str, fault: str, progress: Progress) -> _Package:
    built = _newest(spec, _built())
    if built is None:
        raise LibbpfError(f"{fault}, and no such libbpf is built yet")
    progress.line(f"libbpf {spec}: {fault}; {built} is the newest built here")
    return built


def _apt(suites: tuple[str, ...]) -> Apt:
    return Apt(cache_part(f"apt-sources-{suites[0]}"), suites, kind="deb-src")


def _offered(suites: tuple[str, ...]) -> list[_Package]:
    shown = _apt(suites).output("apt-cache", "showsrc", "--only-source", "libbpf")
    versions = {stanza["Version"] for stanza in stanzas(shown) if "Version" in stanza}
    return [_Package(version, suites) for version in versions]


def _build_package(package: _Package, progress: Progress) -> None:
    with _scratch() as scratch:
        progress(f"libbpf {package}: fetching its source")
        # Without Debian's patches, so that it is upstream's release.
        try:
            _apt(package.suites).output(
                "apt-get",
                "source",
                "--download-only",
                "--tar-only",
                f"libbpf={package.version}",
                cwd=scratch,
            )
        except AptError as error:
            raise LibbpfError(str(error)) from error
        unpacked = scratch / "libbpf"
        unpacked.mkdir()
        (archive,) = scratch.glob("*.orig.tar.*")
        _run(["tar", "-xf", archive, "--strip-components=1", "-C", unpacked])
        progress(f"libbpf {package}: building (10 s)")
        # Compilers that are newer than the release warn of more.
        _make(_Layout.of(unpacked), scratch, package.path, "EXTRA_CFLAGS=-Wno-error")


def _make(layout: _Layout, scratch: Path, target: Path, *variables: str) -> None:
    """Build a libbpf below `scratch`, and put it into the cache as the directory `target`."""
    _require_tools()
    objects, result = scratch / "objects", scratch / "result"
    objects.mkdir()
    result.mkdir()
    where = layout.output.format(objects)
    jobs = f"-j{os.cpu_count() or 1}"
    _run(["make", "-C", layout.makefile, jobs, "BUILD_SHARED=y", where, *variables])
    library = (objects / "libbpf.so").resolve()
    check(library)
    library.rename(result / library.name)
    withdraw(result)
    # A libbpf of this name that is not trusted.
    with contextlib.suppress(FileNotFoundError):
        target.rename(scratch / "replaced")
    result.rename(target)


def _require_tools() -> None:
    """Raise LibbpfError with the packages that are needed for building and missing on this host."""
    missing = [package for tool, package in (("make", "make"), ("cc", "gcc")) if not _has(tool)]
    for header, package in (("libelf.h", "libelf-dev"), ("zlib.h", "zlib1g-dev")):
        if _has("cc") and not _compiles(f"#include <{header}>\n"):
            missing.append(package)
    if missing:
        raise LibbpfError(f"needed to build it: apt-get install {' '.join(missing)}")


def _has(tool: str) -> bool:
    return shutil.which(tool) is not None


def _compiles(source: str) -> bool:
    command = ["cc", "-E", "-x", "c", "-", "-o", os.devnull]
    return not subprocess.run(
        command, input=source, capture_output=True, text=True, check=False
    ).returncode


def _run(command: list[str | Path]) -> None:
    # If pytest itself runs under make, that make's flags are not for this one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not re.match("M(AKE)?FLAGS|MAKEL", name)
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join(f"  {line}" for line in done.stderr.splitlines()[-12:])
        raise LibbpfError(f"{command[0]} failed:\n{said}")
