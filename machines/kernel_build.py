"""Builds a small kernel without modules from Debian's sources, and keeps it in the cache.

    tools/small-kernel [--without NAME]... [--flavour FLAVOUR] [--tree DIR]

The configuration is tinyconfig and the fragment that `bpflink kernels config --full` prints. Prints
the directory of the kernel: `boot/` with image, configuration and System.map, and the uncompressed
kernel in `usr/lib/debug/boot/`. The build takes 10 minutes of a processor and 4 GiB of the disk.

Kernels of two flavours prove something about the tests: `mutants` has faults to choose from, and
`debug` checks locks, RCU and memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_part, locked
from pytest_bpflink.vm.kernels import fragment
from pytest_bpflink.vm.kernels.apt import Apt, AptError, stanzas
from pytest_bpflink.vm.kernels.config import parse_config
from pytest_bpflink.vm.kernels.releases import version_key

from .flavours.edits import ORIGINALS, EditError, edit_tree
from .flavours.flavour import FLAVOURS, Flavour

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SERIES = "6.12"
PACKAGE = f"linux-source-{SERIES}"

# Both have the sources: trixie's own kernel is of this series, and bookworm got it for security.
_SUITES = ("trixie", "trixie-security", "bookworm-security")

# Each program or header that the build needs, and its package.
_PROGRAMS = {
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "pahole": "dwarves",
    "xz": "xz-utils",
    "dpkg-deb": "dpkg",
}
_HEADERS = {"gelf.h": "libelf-dev"}
PACKAGES = (*_PROGRAMS.values(), *_HEADERS.values())

# The release tells whose kernel it is. tinyconfig asks for the least size, which takes longest to
# unpack, and has functions inlined that tests look for.
_OWN = """\
CONFIG_LOCALVERSION="-bpflink"
CONFIG_KERNEL_GZIP=y
CONFIG_CC_OPTIMIZE_FOR_PERFORMANCE=y

"""

_KEY_LENGTH = 16
_NEEDED_BYTES = 4 << 30
_BUILDING = ".building-"
_STEPS = 200  # after so many the build says how far it is


class BuildError(Exception):
    """The kernel can't be built; the message says why, and what to do next."""


@dataclass(frozen=True)
class Recipe:
    """What the kernel is configured with, beside tinyconfig."""

    without: tuple[str, ...] = ()
    """Options of the fragment, without `CONFIG_`, to set to n."""

    flavour: str = ""
    """One of FLAVOURS."""

    @property
    def name(self) -> str:
        """What the kernel's directory is called, before the key."""
        flavour = [self.flavour] if self.flavour else []
        return "-".join([SERIES, *flavour, *(f"without-{name}" for name in self.without)])

    @property
    def additions(self) -> Flavour:
        """What the flavour adds."""
        return FLAVOURS[self.flavour] if self.flavour else Flavour(config="")

    def text(self) -> str:
        """Return the fragment to merge."""
        whole = fragment.text(fragment.GUESTS | fragment.SELFTESTS)
        left_out = "".join(f"CONFIG_{name}=n\n" for name in self.without)
        return f"{_OWN}{whole}{self.additions.config}{left_out}"

    def wanted(self) -> dict[str, str]:
        """Return the options that the finished configuration must have."""
        text = self.text()
        others = [
            f"CONFIG_{option.name}"
            for option in fragment.options(fragment.GUESTS | fragment.SELFTESTS)
            if option.only not in {"", "X86"}
        ]
        left_out = [f"CONFIG_{name}" for name in self.without]
        wanted = parse_config(text)
        return {name: wanted[name] for name in wanted if name not in {*others, *left_out}}


def build(recipe: Recipe, *, tree: Path | None = None) -> Path:
    """Return the directory of the kernel; build it if it is not in the cache.

    In TREE sources and objects stay for the next build, which compiles what changed. Raises
    BuildError.
    """
    _require_programs()
    version = _newest_source()
    compilers = "".join(_first_line(name, "--version") for name in ("gcc", "pahole"))
    # Reasons may be put in other words.
    configuration = [line for line in recipe.text().splitlines() if line.startswith("CONFIG_")]
    edits = [repr(edit) for edit in recipe.additions.edits]
    parts = "\n".join([version, compilers, *configuration, *edits])
    key = hashlib.sha256(parts.encode()).hexdigest()[:_KEY_LENGTH]
    root = cache_part("built-kernels")
    built = root / f"{recipe.name}-{key}"
    waiting = "waiting for another build"
    with locked(root, unfinished=_BUILDING, waits=lambda: _say(waiting)):
        if not built.is_dir():
            with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=root) as directory:
                scratch = Path(directory)
                source = tree or scratch / "tree"
                _require_space(source)
                _unpack(version, source)
                _edit(recipe, source)
                _configure(recipe, source, scratch / "fragment")
                _make(source, scratch / "make.log", "bzImage")
                (scratch / "kernel").mkdir()
                _collect(source, scratch / "kernel")
                (scratch / "kernel").rename(built)
    return built


def newest(recipe: Recipe) -> Path | None:
    """Return the directory of the kernel that was built last by a recipe, perhaps of older text."""
    found = cache_part("built-kernels").glob(f"{recipe.name}-{'[0-9a-f]' * _KEY_LENGTH}")
    return max(found, key=lambda each: each.stat().st_mtime, default=None)


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def _require_programs() -> None:
    missing = [package for name, package in _PROGRAMS.items() if not shutil.which(name)]
    if "gcc" not in missing:
        missing += [package for header, package in _HEADERS.items() if not _has_header(header)]
    if missing:
        raise BuildError(f"to build a kernel, install first: apt-get install {' '.join(missing)}")
    if os.uname().machine != "x86_64":
        raise BuildError("a small kernel is built on x86-64 only")


def _has_header(header: str) -> bool:
    command = ["gcc", "-E", "-include", header, "-x", "c", os.devnull, "-o", os.devnull]
    return not subprocess.run(command, capture_output=True, check=False).returncode


def _require_space(place: Path) -> None:
    existing = next(each for each in (place, *place.parents) if each.is_dir())
    free = shutil.disk_usage(existing).free
    if free < _NEEDED_BYTES:
        raise BuildError(
            f"a build takes {_NEEDED_BYTES >> 30} GiB, and {free >> 20} MiB are free in {existing}:"
            " BPFLINK_CACHE names another place, --tree DIR one for sources and objects"
        )


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.partition("\n")[0]


def _apt() -> Apt:
    return Apt(cache_part("apt-kernel-source"), _SUITES)


def _newest_source() -> str:
    """Return the version of the newest source package; raises BuildError."""
    try:
        apt = _apt()
        outdated = apt.update(_say)
        listed = list(stanzas(apt.output("apt-cache", "show", PACKAGE)))
    except AptError as error:
        raise BuildError(f"{PACKAGE} can't be found: {error}") from error
    if not listed:
        raise BuildError(f"{PACKAGE} is in none of {', '.join(_SUITES)}; {outdated}")
    return max((stanza["Version"] for stanza in listed), key=version_key)


def _unpack(version: str, source: Path) -> None:
    """Unpack the sources of a version into SOURCE, unless they are there."""
    mark = source / ".unpacked"
    if mark.is_file() and mark.read_text() == version:
        return
    _say(f"downloading {PACKAGE} {version}")
    apt = _apt()
    try:
        (package,) = apt.download(f"{PACKAGE}={version}")
    except AptError as error:
        raise BuildError(str(error)) from error
    _say(f"unpacking it to {source}")
    source.mkdir(parents=True, exist_ok=True)
    script = (
        'set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xO "./usr/src/$2.tar.xz"'
        ' | tar -xJ --strip-components=1 -C "$3"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(package), PACKAGE, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    apt.forget()
    if done.returncode:
        raise BuildError(f"{package.name} can't be unpacked: {done.stderr.strip()[-500:]}")
    shutil.rmtree(source / ORIGINALS, ignore_errors=True)
    mark.write_text(version)


def _edit(recipe: Recipe, source: Path) -> None:
    try:
        edit_tree(source, recipe.additions.edits)
    except EditError as error:
        raise BuildError(f"the sources are not as machines/flavours knows them: {error}") from error


def _configure(recipe: Recipe, source: Path, fragment_file: Path) -> None:
    fragment_file.write_text(recipe.text())
    log = fragment_file.with_name("config.log")
    _make(source, log, "tinyconfig")
    merge = ["scripts/kconfig/merge_config.sh", "-m", ".config", str(fragment_file)]
    done = subprocess.run(merge, cwd=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"the fragment can't be merged: {(done.stdout + done.stderr)[-500:]}")
    _make(source, log, "olddefconfig")
    found = parse_config((source / ".config").read_text())
    absent = [name for name, value in recipe.wanted().items() if found.get(name) != value]
    if absent:
        raise BuildError(f"Kconfig does not take {', '.join(absent)}: a dependency is missing")


def _make(source: Path, log: Path, target: str) -> None:
    """Run make, and say now and then how far it is. Raises BuildError with the end of its log."""
    command = ["make", "-C", str(source), f"-j{os.cpu_count()}", target]
    steps = 0
    if target == "bzImage":
        _say("compiling, which takes ten minutes of a processor")
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Without them the same sources give the same kernel.
            env=os.environ | {"KBUILD_BUILD_USER": "bpflink", "KBUILD_BUILD_HOST": "bpflink"},
        ) as process,
    ):
        for line in _lines(process):
            file.write(line)
            steps += line.startswith("  ")
            if line.startswith("  ") and steps % _STEPS == 0:
                _say(f"{steps} steps done")
    if process.returncode:
        end = "".join(log.read_text().splitlines(keepends=True)[-30:])
        raise BuildError(f"make {target} failed:\n{end}")


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout
    try:
        yield from process.stdout
    except BaseException:
        process.terminate()
        raise


def _collect(source: Path, kernel: Path) -> None:
    """Put what others use into KERNEL, laid out as Debian's packages are."""
    release = (source / "include/config/kernel.release").read_text().strip()
    places = {
        "arch/x86/boot/bzImage": f"boot/vmlinuz-{release}",
        ".config": f"boot/config-{release}",
        "System.map": f"boot/System.map-{release}",
        "vmlinux": f"usr/lib/debug/boot/vmlinux-{release}",
    }
    for made, place in places.items():
        (kernel / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / made, kernel / place)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a kernel as the command line asks, and print its directory."""
    summary = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser("tools/small-kernel", description=summary[0])
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        type=lambda name: name.removeprefix("CONFIG_"),
        metavar="NAME",
        help="set an option to n (repeatable)",
    )
    parser.add_argument(
        "--flavour", choices=FLAVOURS, default="", help="what the kernel has beyond"
    )
    parser.add_argument(
        "--tree", type=Path, metavar="DIR", help="keep sources and objects for the next build"
    )
    chosen = parser.parse_args(arguments)
    recipe = Recipe(tuple(sorted(chosen.without)), chosen.flavour)
    try:
        print(build(recipe, tree=chosen.tree and chosen.tree.absolute()))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: the kernel can't be built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
