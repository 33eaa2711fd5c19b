"""Compiles a `.bpf.c` to a `.bpf.o` with clang, and caches the object.

The key of the cache is everything that decides the object: the source, the files it includes, the
places where clang looked for these files in vain, the flags, the compiler and its environment. The
error of a source that does not compile is kept by the same key. Where the cache can't be written (a
guest, a full disk, a read-only cache) the object goes into a temporary directory.
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
from typing import TYPE_CHECKING, TypeGuard

from pytest_bpflink.building import prebuilt, vmlinux_h
from pytest_bpflink.building.clang import (
    ClangRefusal,
    Inputs,
    Target,
    clang,
    environment,
    flags,
    memory_file,
    translate,
)
from pytest_bpflink.errors import CompileError, is_bpf_error
from pytest_bpflink.vm.cache import cache_part, is_trusted, recall, usable, writable
from pytest_bpflink.vm.scratch import Scratch
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_bpflink.building.handed_over import Made

_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
_HEADER_VARIABLE = "BPFLINK_VMLINUX_H"
_HANDED_OVER = "BPFLINK_OBJECTS"
_RUN_VARIABLE = "BPFLINK_RUN"


def object_of(path: str | os.PathLike[str]) -> Path:
    """Return the object file to load: the path itself, or the object compiled from a `.bpf.c`.

    A source that is installed with its object, as in the wheel, is compiled only if it was edited.
    A path that does not end in `.c` is returned as it is, whether the file exists or not. Raises
    `CompileError`.
    """
    __tracebackhide__ = is_bpf_error
    given = Path(path)
    remembered = _remembered(given)
    if remembered:
        return remembered
    source = _one_name(given)
    if source.suffix != ".c":
        return source
    if not source.exists():
        raise CompileError(errno.ENOENT, f"compile {source}")
    return (
        _remembered(source)
        or prebuilt.find(source)
        or _handed_over(source)
        or _compile_cached(source, given=given)
    )


def prepare(sources: Iterable[Path], *, before_each: Callable[[Path], object]) -> None:
    """Compile sources into the cache before guests start: clang takes minutes in an emulated one.

    The error of a source that does not compile is kept for the test that loads it in this run.
    Guests, too, compile with this kernel's `vmlinux.h`; CO-RE adapts programs to their kernels.
    `before_each` is called with each source that is not in the cache.
    """
    os.environ[_RUN_VARIABLE] = uuid.uuid4().hex
    for source in sources:
        with contextlib.suppress(CompileError):
            if _includes_kernel_types(source):
                os.environ[_HEADER_VARIABLE] = str(_vmlinux_header())
            if not _is_compiled(source):
                before_each(source)
            object_of(source)


def made_of(sources: Iterable[Path]) -> dict[Path, Made]:
    """Return what became of sources that `prepare` has compiled."""
    from pytest_bpflink.building.handed_over import Made

    found = {}
    for source in map(_one_name, sources):
        try:
            found[source] = Made(object_of(source))
        except CompileError as error:
            found[source] = Made(None, error.log, error.hint)
    return found


def made_for(
    sources: Iterable[Path],
    target: Target,
    *,
    header: Callable[[], Path],
    before_each: Callable[[Path], object],
) -> dict[Path, Made]:
    """Compile sources for guests of another architecture; return what became of them.

    HEADER makes the `vmlinux.h` of their kernel.
    """
    from pytest_bpflink.building.handed_over import Made

    found = {}
    for source in map(_one_name, sources):
        try:
            compiler = clang()
            if compiler is None:
                raise _without_clang(source)
            more = [f"-I{header().parent}"] if _includes_kernel_types(source) else []
            command = [str(compiler), *flags(target), *more]
            if _look_up(_entry(source, command)) is None:
                before_each(source)
            found[source] = Made(_built(command, source)[0])
        except CompileError as error:
            found[source] = Made(None, error.log, error.hint)
    return found


def clang_version() -> str:
    """Return the release of clang, such as `14.0.6`; empty without clang. Each clang runs once."""
    compiler = clang()
    if compiler is None:
        return ""
    file = usable(cache_part("clang") / _digest(_identity(compiler)))
    with contextlib.suppress(OSError, ValueError):
        if is_trusted(file) and (known := file.read_text()):
            return known
    line = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout.partition("\n")[0]
    release = line.partition("version ")[2].split()[0] if "version " in line else line
    with contextlib.suppress(OSError):
        write_whole(file, release.encode())
    return release


def _one_name(source: Path) -> Path:
    """Return one path for a source, whichever symlinks lead to its directory: it is compiled once.

    A source that is a symlink itself stays one: clang looks for headers beside the link.
    """
    return source.parent.resolve() / source.name


# By source and environment: the object, and the signature and the paths of what it was made of.
_compiled: dict[tuple[Path, tuple[str, ...]], tuple[Path, object, list[Path]]] = {}


def _remembered(source: Path) -> Path | None:
    built, state, parts = _compiled.get((source, environment()), (None, None, []))
    return built if built and state == _signature(parts) else None


def _handed_over(source: Path) -> Path | None:
    __tracebackhide__ = is_bpf_error
    if _HANDED_OVER not in os.environ:
        return None
    from pytest_bpflink.building import handed_over

    made = handed_over.find(source)
    if made and made.object is None:
        raise CompileError(errno.EINVAL, f"compile {source}", hint=made.hint, log=made.log)
    return made.object if made else None


def _compile_cached(source: Path, *, given: Path) -> Path:
    __tracebackhide__ = is_bpf_error
    compiler = clang()
    if compiler is None:
        raise _without_clang(source)
    built, parts = _built([str(compiler), *_flags(source)], source)
    # Remembered by the given name, too, since resolving it takes longer than all the rest. The
    # signature includes the file at that name, since the name may lead elsewhere the next time.
    for name in (source, given):
        _compiled[name, environment()] = built, _signature([name, *parts]), [name, *parts]
    return built


def _built(command: list[str], source: Path) -> tuple[Path, list[Path]]:
    """Return an object, from the cache or compiled, and the paths of what it was made of."""
    __tracebackhide__ = is_bpf_error
    entry = _entry(source, command)
    found = _look_up(entry)
    if found is None:
        _raise_kept_failure(source, entry)
        found = _compile(source, command, entry)
    return found


def _is_compiled(source: Path) -> bool:
    compiler = clang()
    return (
        compiler is None
        or prebuilt.find(source) is not None
        or _look_up(_entry(source, [str(compiler), *_flags(source)])) is not None
    )


def _entry(source: Path, command: list[str]) -> Path:
    # Without the files that the source includes: only compiling it shows which these are.
    identity = _identity(Path(command[0]))
    key = _digest(identity, *command, *environment(), str(source))
    return writable(usable(cache_part("objects") / key), unless=_look_up)


def _keep_failure(entry: Path, refusal: ClangRefusal) -> None:
    run = os.environ.get(_RUN_VARIABLE)
    if run:
        contents = _contents_of(refusal.inputs)
        failure = {"run": run, "parts": contents, "log": str(refusal)}
        with contextlib.suppress(OSError):
            write_whole(entry / "failure.json", json.dumps(failure).encode())


def _raise_kept_failure(source: Path, entry: Path) -> None:
    """Raise the error that clang gave for the same files in this run, perhaps on the host.

    An error of another run is ignored: clang may also have failed for lack of memory.
    """
    __tracebackhide__ = is_bpf_error
    kept = recall(entry / "failure.json")
    run, contents = kept.get("run"), kept.get("parts")
    if run and run == os.environ.get(_RUN_VARIABLE) and _are_unchanged(contents):
        raise _refusal(source, str(kept.get("log")))


def _without_clang(source: Path) -> CompileError:
    hint = "clang is not installed (Debian: apt install clang); or give a built .bpf.o"
    if _HANDED_OVER in os.environ:
        hint = (
            "clang is not installed in this guest; the host has compiled the .bpf.c below the"
            " directories of pytest's arguments as they were when the run began"
        )
    return CompileError(errno.ENOENT, f"compile {source}", hint=hint)


def _refusal(source: Path, log: str) -> CompileError:
    return CompileError(errno.EINVAL, f"compile {source}", hint="clang says:", log=log)


def _look_up(entry: Path) -> tuple[Path, list[Path]] | None:
    """Find an object in the cache; None if it, or what it was made of, has changed since."""
    kept = recall(entry / "parts.json")
    contents = kept.get("parts")
    if _are_unchanged(contents):
        built = _place(entry, contents)
        if is_trusted(built) and _content(built) == kept.get("object"):
            return built, [Path(name) for name in contents]
    return None


def _compile(source: Path, command: list[str], entry: Path) -> tuple[Path, list[Path]]:
    __tracebackhide__ = is_bpf_error
    try:
        image, inputs = translate(command, source)
    except ClangRefusal as refusal:
        _keep_failure(entry, refusal)
        raise _refusal(source, str(refusal)) from None
    contents = _contents_of(inputs)
    built = _place(entry, contents)
    try:
        write_whole(built, image)
        kept = {"parts": contents, "object": _digest(image)}
        write_whole(entry / "parts.json", json.dumps(kept).encode())
    except OSError:
        built = _place(_unwritable_cache().path, contents)
        write_whole(built, image)
    return built, [Path(name) for name in contents]


def _place(entry: Path, contents: dict[str, str]) -> Path:
    # Users see the file's name: libbpf puts it before the names of global variables' maps.
    source = Path(next(iter(contents)))
    return entry / _digest(*contents, *contents.values()) / source.with_suffix(".o").name


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
    """Return the running kernel's `vmlinux.h`, dumped once per kernel; in a guest, the host's."""
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
    kept = usable(cache_part("vmlinux") / key)
    header = writable(kept, unless=_has_header) / "vmlinux.h"
    if not _has_header(header.parent):
        with memory_file() as dumped:
            vmlinux_h.dump(dumped)
            write_whole(header, dumped.read_bytes())
    return header


def header_of(identity: str, btf: Callable[[], bytes | None]) -> Path:
    """Return the `vmlinux.h` of another kernel than the running one, made of its BTF if missing.

    IDENTITY changes with the kernel's image. Raises `CompileError` if the kernel has no BTF.
    """
    kept = usable(cache_part("vmlinux") / _digest(identity))
    header = writable(kept, unless=_has_header) / "vmlinux.h"
    if not _has_header(header.parent):
        types = btf()
        if types is None:
            hint = "no BTF was found in the kernel's image (CONFIG_DEBUG_INFO_BTF)"
            raise CompileError(errno.ENOENT, "make vmlinux.h", hint=hint)
        with memory_file() as raw, memory_file() as dumped:
            raw.write_bytes(types)
            vmlinux_h.dump(dumped, raw)
            write_whole(header, dumped.read_bytes())
    return header


def _has_header(directory: Path) -> bool:
    header = directory / "vmlinux.h"
    return os.path.exists(header) and is_trusted(header)


def _identity(program: Path) -> str:
    status = program.stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"


def _signature(parts: list[Path]) -> list[tuple[int, int, int] | None]:
    """Return numbers that change with each file; None for a file that is missing."""
    return [_file_signature(each) for each in parts]


def _file_signature(part: Path) -> tuple[int, int, int] | None:
    try:
        status = part.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _contents_of(inputs: Inputs) -> dict[str, str]:
    return {str(part): _content(part) for part in (*inputs.files, *inputs.empty)}


def _are_unchanged(contents: object) -> TypeGuard[dict[str, str]]:
    """Whether these are files with their digests, as from `_contents_of`, and still right."""
    if not isinstance(contents, dict) or not contents:
        return False
    with contextlib.suppress(OSError, ValueError):  # ValueError: a path with a zero byte
        return all(_content(Path(part)) == content for part, content in contents.items())
    return False


# By file: its signature, and its digest at that time. Most sources include the same headers.
_contents: dict[Path, tuple[object, str]] = {}


def _content(part: Path) -> str:
    """Return the digest of a file, which is read again if it has changed; empty without a file."""
    state = _file_signature(part)
    known = _contents.get(part)
    if known is None or known[0] != state:
        known = _contents[part] = state, _digest_of_file(part)
    return known[1]


def _digest_of_file(part: Path) -> str:
    try:
        return _digest(part.read_bytes())
    except IsADirectoryError:
        return "directory"
    except OSError:
        return ""


def _digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:32]
