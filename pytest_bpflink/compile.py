"""A `.bpf.c` to a `.bpf.o`, with clang, cached.

The cache's key is everything that decides the outcome: the source, what it includes, the flags and
the compiler. Where the cache can't be written (a guest, a full disk) the object is made in a
temporary file instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_void_p
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from pytest_bpflink import libbpf
from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from collections.abc import Iterable

_TARGETS = {"x86_64": "x86", "aarch64": "arm64", "riscv64": "riscv", "ppc64le": "powerpc"}
_HEADER_VARIABLE = "BPFLINK_VMLINUX_H"
_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")


class CompileError(BpfError):
    """clang refused a source, or is missing; `log` is what it says."""

    def _shown_log(self) -> list[str]:
        return self.log.splitlines()


def object_of(path: str | os.PathLike[str]) -> Path:
    """Return the object file to load: the path itself, or what a `.bpf.c` compiles to.

    A source whose object stands beside it already (as in the wheel) and is not older is not
    compiled again. Raises `CompileError`; a path that ends in neither `.c` nor exists is returned
    as it is, for the loader to say what is wrong.
    """
    source = Path(path).absolute()
    if source.suffix != ".c":
        return source
    signature = _signature([source])
    if signature is None:
        raise CompileError(errno.ENOENT, f"compile {source}")
    built = source.with_suffix(".o")
    beside = _signature([built])
    if beside is not None and beside[0][0] >= signature[0][0]:
        return built
    remembered = _compiled.get(source)
    if remembered and remembered[1] == _signature(remembered[2]):
        return remembered[0]
    return _compile_cached(source)


def prepare(sources: Iterable[Path]) -> None:
    """Compile sources before guests start, which find the objects in the cache.

    clang takes minutes in an emulated guest. A source that does not compile is left to the test
    that asks for it. Guests compile against this kernel's `vmlinux.h` too: CO-RE makes it fit.
    """
    for source in sources:
        with contextlib.suppress(CompileError):
            if _includes_kernel_types(source):
                os.environ[_HEADER_VARIABLE] = str(_vmlinux_header())
            object_of(source)


def cache_directory() -> Path:
    """Where objects, kernels and libraries are kept; `BPFLINK_CACHE` names another place."""
    named = os.environ.get("BPFLINK_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("pytest-bpflink")


@functools.cache
def clang() -> Path | None:
    """Return the clang that compiles, the one that `CLANG` names or the first on PATH."""
    found = shutil.which(os.environ.get("CLANG", "clang"))
    return Path(found).resolve() if found else None


def clang_version() -> str:
    """Release of clang, such as `14.0.6`; empty without clang. Costs a process once per clang."""
    compiler = clang()
    if compiler is None:
        return ""
    file = cache_directory() / "clang" / _digest(_identity(compiler))
    with contextlib.suppress(OSError):
        return file.read_text()
    line = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout.partition("\n")[0]
    release = line.partition("version ")[2].split()[0] if "version " in line else line
    with contextlib.suppress(OSError):
        _write_whole(file, release.encode())
    return release


# source: its object, and the state of the files it was made of when that was last looked at.
_compiled: dict[Path, tuple[Path, object, list[Path]]] = {}


def _compile_cached(source: Path) -> Path:
    compiler = clang()
    if compiler is None:
        hint = "clang is not installed (Debian: apt install clang); or give a built .bpf.o"
        raise CompileError(errno.ENOENT, f"compile {source}", hint=hint)
    command = [str(compiler), *_flags(source)]
    # Sources may include each other, so what a source includes is only known from compiling it.
    entry = cache_directory() / "objects" / _digest(_identity(compiler), *command, str(source))
    found = _look_up(entry)
    if found is None:
        found = _compile(source, command, entry)
    built, parts = found
    _compiled[source] = built, _signature(parts), parts
    return built


def _look_up(entry: Path) -> tuple[Path, list[Path]] | None:
    """Find an object whose source and headers are what they were when it was made."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        contents: dict[str, str] = json.loads((entry / "parts.json").read_bytes())
        parts = [Path(name) for name in contents]
        if all(_digest(part.read_bytes()) == contents[str(part)] for part in parts):
            built = _place(entry, contents)
            if built.exists():
                return built, parts
    return None


def _compile(source: Path, command: list[str], entry: Path) -> tuple[Path, list[Path]]:
    with tempfile.TemporaryDirectory(prefix="bpflink-") as scratch:
        depends = Path(scratch, "depends")
        result = subprocess.run(
            [*command, "-MD", "-MF", depends, "-c", source, "-o", f"{scratch}/object"],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            hint = "clang says:"
            raise CompileError(errno.EINVAL, f"compile {source}", hint=hint, log=result.stderr)
        parts = [Path(name) for name in _parse_depends(depends.read_text())]
        contents = {str(part): _digest(part.read_bytes()) for part in parts}
        image = Path(scratch, "object").read_bytes()
    built = _place(entry, contents)
    try:
        _write_whole(built, image)
        _write_whole(entry / "parts.json", json.dumps(contents).encode())
    except OSError:
        built = _place(Path(_unwritable_cache().name), contents)
        _write_whole(built, image)
    return built, parts


def _place(entry: Path, contents: dict[str, str]) -> Path:
    # The file's name is seen by users: libbpf puts it before the names of maps for globals.
    source = Path(next(iter(contents)))
    return entry / _digest(*contents.values()) / source.with_suffix(".o").name


@functools.cache
def _unwritable_cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bpflink-objects-")


def _flags(source: Path) -> list[str]:
    machine = platform.machine()
    flags = ["-target", "bpf", "-O2", "-g", "-Wall", "-mcpu=v3"]
    flags += [f"-D__TARGET_ARCH_{_TARGETS.get(machine, machine)}"]
    # Debian keeps asm/ apart per architecture, where clang looks for its own target's only.
    flags += [f"-I/usr/include/{machine}-linux-gnu"]
    if _includes_kernel_types(source):
        flags += [f"-I{_vmlinux_header().parent}"]
    return flags


def _includes_kernel_types(source: Path) -> bool:
    return b'"vmlinux.h"' in source.read_bytes()


def _vmlinux_header() -> Path:
    """Dump the running kernel's types as C, once per kernel; in a guest take its host's."""
    named = os.environ.get(_HEADER_VARIABLE)
    if named:
        return Path(named)
    try:
        key = _digest(_KERNEL_BTF.read_bytes())
    except OSError as error:
        hint = "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
        raise CompileError(
            error.errno or 0, f"make vmlinux.h of {_KERNEL_BTF}", hint=hint
        ) from error
    header = cache_directory() / "vmlinux" / key / "vmlinux.h"
    if not header.exists():
        with tempfile.TemporaryDirectory(prefix="bpflink-") as scratch:
            dumped = Path(scratch, "vmlinux.h")
            _dump_kernel_types(dumped)
            _write_whole(header, dumped.read_bytes())
    return header


def _dump_kernel_types(header: Path) -> None:
    doing = "make vmlinux.h of the kernel's BTF"
    libc = ctypes.CDLL(None)
    libc.fopen.restype = c_void_p
    # vfprintf has the very signature of btf_dump_printf_fn_t, with the stream for its context:
    # a million small prints without a Python frame each.
    print_function = ctypes.cast(libc.vfprintf, c_void_p)
    btf = libbpf.call("btf__load_vmlinux_btf", doing=doing)
    stream = c_void_p(libc.fopen(os.fsencode(header), b"w"))
    dump = libbpf.call("btf_dump__new", btf, print_function, stream, None, doing=doing)
    guard = b"__VMLINUX_H__"
    access = b"attribute push(__attribute__((preserve_access_index)), apply_to = record)"
    libc.fprintf(stream, b"#ifndef %s\n#define %s\n", guard, guard)
    libc.fprintf(
        stream, b"#ifndef BPF_NO_PRESERVE_ACCESS_INDEX\n#pragma clang %s\n#endif\n", access
    )
    for type_id in range(1, libbpf.call("btf__type_cnt", btf, doing=doing)):
        libbpf.call("btf_dump__dump_type", dump, type_id, doing=doing)
    libc.fprintf(stream, b"#ifndef BPF_NO_PRESERVE_ACCESS_INDEX\n")
    libc.fprintf(stream, b"#pragma clang attribute pop\n#endif\n#endif\n")
    libc.fclose(stream)
    libbpf.call("btf_dump__free", dump, doing=doing)
    libbpf.call("btf__free", btf, doing=doing)


def _parse_depends(text: str) -> list[str]:
    """Read the prerequisites of a makefile rule; spaces in a path are escaped with a backslash."""
    words = text.replace("\\\n", " ").replace("\\ ", "\0").split()
    return [word.replace("\0", " ") for word in words[1:]]


def _write_whole(file: Path, content: bytes) -> None:
    """Write a file so that others see all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = tempfile.NamedTemporaryFile(dir=file.parent, prefix=".new-", delete=False)  # noqa: SIM115
    try:
        with fresh:
            fresh.write(content)
        os.replace(fresh.name, file)
    except BaseException:
        os.unlink(fresh.name)
        raise


def _identity(program: Path) -> str:
    status = program.stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"


def _signature(files: list[Path]) -> list[tuple[int, int, int]] | None:
    """Return what changes when a file does, None where one is missing."""
    try:
        status = [file.stat() for file in files]
    except OSError:
        return None
    return [(each.st_mtime_ns, each.st_size, each.st_ino) for each in status]


def _digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:32]
