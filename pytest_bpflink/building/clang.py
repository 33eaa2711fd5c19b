"""clang for BPF programs: its path, its flags, and the compilation of one source.

Knows neither caches nor the rest of the project except `headers`, since the build of the wheel
imports it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_bpflink.building import headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_TARGETS = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "ppc64le": "powerpc"}
_TARGETS["s390x"] = "s390"


@dataclass(frozen=True)
class Target:
    """A machine that programs run on: its name of `uname -m`, byte order, and own headers."""

    machine: str
    byte_order: Literal["little", "big"]
    headers: Path


@dataclass(frozen=True)
class Inputs:
    """What decides a translation beside the command."""

    files: list[Path]
    """The source, which is the first, and the headers."""
    empty: list[Path]
    """The places where clang looked for a header and found none."""


class ClangRefusal(Exception):  # noqa: N818 - named for what happened
    """clang made no object; the text is clang's message.

    `is_final` says whether clang will refuse the same source again: it read all files that it
    found, and was not killed.
    """

    def __init__(self, message: str, inputs: Inputs, *, is_final: bool) -> None:
        self.inputs = inputs
        self.is_final = is_final
        super().__init__(message)


# The variables by which clang changes the object or the search for headers.
_VARIABLES = (
    "CPATH",
    "C_INCLUDE_PATH",
    "CCC_OVERRIDE_OPTIONS",
    "COMPILER_PATH",
    "CLANG_NO_DEFAULT_CONFIG",
    "SOURCE_DATE_EPOCH",
)


# Headers that take the place of ones that the distribution may lack.
_SUBSTITUTES = Path(__file__).with_name("include")

# The instruction sets of Linux 4.14 and 5.12. For the newer one clang 20 and later translate
# `__sync_fetch_and_add()`, by which most programs count, to an instruction that 5.10 refuses, even
# if the result is not used.
_PORTABLE, _NEWER = "-mcpu=v2", "-mcpu=v3"

# An error in a source, and one that the state of the machine may be the cause of.
_ERROR = re.compile(r"^.+:\d+:\d+: (fatal )?error: ", re.MULTILINE)
_UNREADABLE = "error: cannot open file"


@functools.cache
def clang() -> Path | None:
    """Return the path of clang: what `CLANG` names, by default `clang`; None if it is not found."""
    found = shutil.which(os.environ.get("CLANG", "clang"))
    return Path(found).resolve() if found else None


def flags(target: Target | None = None, *, more: Sequence[str] = ()) -> list[str]:
    """Return the flags for BPF programs on a machine, by default on this one.

    MORE are the user's, which decide where two contradict each other. Unless they name an
    instruction set, it is the one that all kernels have; `translate` takes a newer one for what
    needs it.
    """
    machine = target.machine if target else platform.machine()
    # Debian has asm/ below a directory per architecture, and clang searches its target's only.
    headers = target.headers if target else Path(f"/usr/include/{machine}-linux-gnu")
    kind = {"little": "bpfel", "big": "bpfeb"}[target.byte_order] if target else "bpf"
    return [
        *("-target", kind, "-O2", "-g", "-Wall", _PORTABLE),
        f"-D__TARGET_ARCH_{_TARGETS.get(machine, machine)}",
        *more,
        f"-I{headers}",
    ]


def searched_last(directories: Iterable[Path]) -> list[str]:
    """Return the flags to look in DIRECTORIES for headers that are found nowhere else."""
    return [f"-idirafter{directory}" for directory in (*directories, _SUBSTITUTES)]


def environment() -> tuple[str, ...]:
    """Return the part of the environment that decides a translation."""
    given = [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    # Directories of these variables may be relative.
    return (*given, str(Path.cwd())) if given else ()


def translate(command: Sequence[str], source: Path) -> tuple[bytes, Inputs]:
    """Compile, and return the object and what decided it. Raises `ClangRefusal`."""
    try:
        return _translate(command, source)
    except ClangRefusal:
        if [word for word in command if word.startswith("-mcpu=")] != [_PORTABLE]:
            raise
    return _translate([_NEWER if word == _PORTABLE else word for word in command], source)


def _translate(command: Sequence[str], source: Path) -> tuple[bytes, Inputs]:
    # clang writes the object to a pipe and the dependencies to memory: if this process is killed,
    # no file is left, and clang ends at the closed pipe.
    with memory_file() as depends:
        result = subprocess.run(
            [*command, "-v", "-MD", "-MF", depends, "-MT", "object", "-c", source, "-o", "-"],
            capture_output=True,
            check=False,
            pass_fds=[int(depends.name)],
        )
        directories, messages = headers.split_verbose(result.stderr.decode(errors="replace"))
        if result.returncode:
            # clang lists no dependencies if a header is missing.
            files = headers.reachable(source, directories)
        else:
            files = [Path(name).absolute() for name in _parse_depends(depends.read_text())]
    inputs = Inputs(files, headers.empty_places(files, directories))
    if result.returncode:
        raise ClangRefusal(
            messages,
            inputs,
            is_final=result.returncode == 1
            and bool(_ERROR.search(messages))
            and _UNREADABLE not in messages,
        )
    return result.stdout, inputs


@contextlib.contextmanager
def memory_file() -> Iterator[Path]:
    """Give the path of a file that is in memory only, for this process and its children."""
    descriptor = os.memfd_create("bpflink")
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _parse_depends(text: str) -> list[str]:
    """Read the prerequisites of a makefile rule, in which spaces, # and $ are escaped."""
    words = text.replace("\\\n", " ").replace("\\ ", "\0").split()
    unescaped = (word.replace("\\#", "#").replace("$$", "$") for word in words[1:])
    return [word.replace("\0", " ") for word in unescaped]
