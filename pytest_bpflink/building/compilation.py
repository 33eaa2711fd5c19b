"""A `.bpf.c` to a `.bpf.o`, with clang, cached.

The cache's key is everything that decides the outcome: the source, what it includes, the flags and
the compiler. Where the cache can't be written (a guest, a full disk) the object is made in a
temporary file instead.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import hashlib
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.building import prebuilt, vmlinux_h
from pytest_bpflink.building.clang import ClangRefusal, clang, flags, memory_file, translate
from pytest_bpflink.errors import CompileError
from pytest_bpflink.vm.cache import cache_part, is_trusted, usable
from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
_HEADER_VARIABLE = "BPFLINK_VMLINUX_H"
_RUN_VARIABLE = "BPFLINK_RUN"


def object_of(path: str | os.PathLike[str]) -> Path:
    """Return the object file to load: the path itself, or what a `.bpf.c` compiles to.

    A source that came with its object, as in the wheel, is not compiled again unless it was
    edited. Raises `CompileError`; a path that ends in neither `.c` nor exists is returned as it is,
    for the loader to say what is wrong.
    """
    given = Path(path)
    remembered = _remembered(given)
    if remembered:
        return remembered
    source = _one_name(given)
    if source.suffix != ".c":
        return source
    if not source.exists():
        raise CompileError(errno.ENOENT, f"compile {source}")
    return _remembered(source) or prebuilt.find(source) or _compile_cached(source, given=given)


def prepare(sources: Iterable[Path], *, before_each: Callable[[Path], object]) -> None:
    """Compile sources before guests start, which find the objects in the cache.

    clang takes minutes in an emulated guest. The error of a source that does not compile is kept
    for the test that asks for it, in this run. Guests compile against this kernel's `vmlinux.h`
    too: CO-RE makes it fit. `before_each` is called with each source that was not compiled before.
    """
    run = os.environ[_RUN_VARIABLE] = uuid.uuid4().hex
    for source in sources:
        try:
            if _includes_kernel_types(source):
                os.environ[_HEADER_VARIABLE] = str(_vmlinux_header())
            if not _is_compiled(source):
                before_each(source)
            object_of(source)
        except CompileError as error:
            if error.log:
                _keep_failure(source, run, error.log)


def clang_version() -> str:
    """Release of clang, such as `14.0.6`; empty without clang. Costs a process once per clang."""
    compiler = clang()
    if compiler is None:
        return ""
    file = usable(cache_part("clang") / _digest(_identity(compiler)))
    with contextlib.suppress(OSError):
        return file.read_text()
    line = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout.partition("\n")[0]
    release = line.partition("version ")[2].split()[0] if "version " in line else line
    with contextlib.suppress(OSError):
        write_whole(file, release.encode())
    return release


def _one_name(source: Path) -> Path:
    """Return the same path whatever symlinks lead to a source, so that it is compiled once.

    The source itself may be a link: clang looks for headers beside that.
    """
    return source.parent.resolve() / source.name


# source: its object, and the state of the files it was made of when that was last looked at.
_compiled: dict[Path, tuple[Path, object, list[Path]]] = {}


def _remembered(source: Path) -> Path | None:
    built, state, files = _compiled.get(source, (None, None, []))
    return built if built and state == _signature(files) else None


def _compile_cached(source: Path, *, given: Path) -> Path:
    compiler = clang()
    if compiler is None:
        hint = "clang is not installed (Debian: apt install clang); or give a built .bpf.o"
        raise CompileError(errno.ENOENT, f"compile {source}", hint=hint)
    command = [str(compiler), *_flags(source)]
    entry = _entry(source, command)
    found = _look_up(entry)
    if found is None:
        _raise_kept_failure(source, entry)
        found = _compile(source, command, entry)
    built, parts = found
    # By the name that was given, too: to find out where it leads takes longer than all else. What
    # is there is looked at by that name, since it may lead elsewhere the next time.
    for name in (source, given):
        _compiled[name] = built, _signature([name, *parts]), [name, *parts]
    return built


def _is_compiled(source: Path) -> bool:
    compiler = clang()
    return (
        compiler is None
        or prebuilt.find(source) is not None
        or _look_up(_entry(source, [str(compiler), *_flags(source)])) is not None
    )


def _entry(source: Path, command: list[str]) -> Path:
    # Sources may include each other, so what a source includes is only known from compiling it.
    identity = _identity(Path(command[0]))
    return usable(cache_part("objects") / _digest(identity, *command, str(source)))


def _keep_failure(source: Path, run: str, log: str) -> None:
    entry = _entry(source, [str(clang()), *_flags(source)])
    failure = {"run": run, "source": _digest(source.read_bytes()), "log": log}
    with contextlib.suppress(OSError):
        write_whole(entry / "failure.json", json.dumps(failure).encode())


def _raise_kept_failure(source: Path, entry: Path) -> None:
    """Raise what clang said on the host in this run; headers may have changed since another."""
    if not is_trusted(entry / "failure.json"):
        return
    try:
        kept: dict[str, str] = json.loads((entry / "failure.json").read_bytes())
    except (OSError, ValueError):
        return
    run, content = kept["run"], kept["source"]
    if run == os.environ.get(_RUN_VARIABLE) and content == _digest(source.read_bytes()):
        raise _refusal(source, kept["log"])


def _refusal(source: Path, log: str) -> CompileError:
    return CompileError(errno.EINVAL, f"compile {source}", hint="clang says:", log=log)


def _look_up(entry: Path) -> tuple[Path, list[Path]] | None:
    """Find an object whose source and headers are what they were when it was made."""
    if not is_trusted(entry / "parts.json"):
        return None
    with contextlib.suppress(OSError, ValueError, KeyError):
        contents: dict[str, str] = json.loads((entry / "parts.json").read_bytes())
        parts = [Path(name) for name in contents]
        if all(_content(part) == contents[str(part)] for part in parts):
            built = _place(entry, contents)
            if built.exists() and is_trusted(built):
                return built, parts
    return None


def _compile(source: Path, command: list[str], entry: Path) -> tuple[Path, list[Path]]:
    try:
        image, parts = translate(command, source)
    except ClangRefusal as refusal:
        raise _refusal(source, str(refusal)) from None
    contents = {str(part): _content(part) for part in parts}
    built = _place(entry, contents)
    try:
        write_whole(built, image)
        write_whole(entry / "parts.json", json.dumps(contents).encode())
    except OSError:
        built = _place(_unwritable_cache().path, contents)
        write_whole(built, image)
    return built, parts


def _place(entry: Path, contents: dict[str, str]) -> Path:
    # The file's name is seen by users: libbpf puts it before the names of maps for globals.
    source = Path(next(iter(contents)))
    return entry / _digest(*contents.values()) / source.with_suffix(".o").name


@functools.cache
def _unwritable_cache() -> Scratch:
    scratch = Scratch()
    atexit.register(scratch.close)
    return scratch


def _flags(source: Path) -> list[str]:
    if _includes_kernel_types(source):
        return [*flags(), f"-I{_vmlinux_header().parent}"]
    return flags()


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
    header = usable(cache_part("vmlinux") / key) / "vmlinux.h"
    if not header.exists() or not is_trusted(header):
        with memory_file() as dumped:
            vmlinux_h.dump(dumped)
            write_whole(header, dumped.read_bytes())
    return header


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


# Sources include much the same headers: the digest of each, and the state that it had then.
_contents: dict[Path, tuple[object, str]] = {}


def _content(part: Path) -> str:
    """Return the digest of a file, which is read again when it has changed. Raises `OSError`."""
    state = _signature([part])
    known = _contents.get(part)
    if known is None or known[0] != state:
        known = _contents[part] = state, _digest(part.read_bytes())
    return known[1]


def _digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:32]
