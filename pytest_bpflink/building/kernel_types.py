"""`vmlinux.h`: the types of a kernel, as a header that is made once for each kernel."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_bpflink.building import vmlinux_h
from pytest_bpflink.building.clang import memory_file
from pytest_bpflink.errors import CompileError
from pytest_bpflink.vm.cache import cache_part, is_trusted, usable, writable
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NAME: Final = "vmlinux.h"

_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
_VARIABLE = "BPFLINK_VMLINUX_H"

# Names with as many ".." stay in a directory of ours.
_DEPTH = Path("below/below/below")


def running() -> Path:
    """Return the running kernel's `vmlinux.h`; in a guest, the host's.

    Raises `CompileError` if the kernel has no BTF.
    """
    named = os.environ.get(_VARIABLE)
    if named:
        return Path(named)
    try:
        types = _KERNEL_BTF.read_bytes()
    except OSError as error:
        hint = "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)"
        doing = f"make vmlinux.h of {_KERNEL_BTF}"
        raise CompileError(error.errno or 0, doing, hint=hint) from error
    return _kept(hashlib.sha256(types).hexdigest(), vmlinux_h.dump)


def use_in_guests(header: Path) -> None:
    """Have guests compile with this header: CO-RE adapts programs to their kernels."""
    os.environ[_VARIABLE] = str(header)


def of_kernel(identity: str, btf: Callable[[], bytes | None]) -> Path:
    """Return the `vmlinux.h` of another kernel than the running one, made of its BTF if missing.

    IDENTITY changes with the kernel's image. Raises `CompileError` if the kernel has no BTF.
    """

    def dump(dumped: Path) -> None:
        types = btf()
        if types is None:
            hint = "no BTF was found in the kernel's image (CONFIG_DEBUG_INFO_BTF)"
            raise CompileError(errno.ENOENT, "make vmlinux.h", hint=hint)
        with memory_file() as raw:
            raw.write_bytes(types)
            vmlinux_h.dump(dumped, raw)

    return _kept(hashlib.sha256(identity.encode()).hexdigest(), dump)


def directories_for(header: Path, includes: Iterable[str]) -> list[Path]:
    """Return directories in which clang finds HEADER by each name that sources INCLUDE it by.

    Names such as `<x86/vmlinux.h>` and `"../vmlinux.h"` get a header that includes it.
    """
    others = [name for name in includes if name != NAME]
    if not others:
        return [header.parent]

    def has_all(directory: Path) -> bool:
        needed = [directory / _DEPTH, *_places(directory, others)]
        return is_trusted(directory) and all(each.exists() for each in needed)

    kept = writable(usable(cache_part("vmlinux") / "by-other-names"), unless=has_all)
    # clang searches no directory that is not there.
    make_directory(kept / _DEPTH)
    for place in _places(kept, others):
        if not place.exists():
            write_whole(place, b"#include <vmlinux.h>\n")
    return [header.parent, kept / _DEPTH]


def _places(root: Path, names: Iterable[str]) -> list[Path]:
    """Return the places of headers by these names, as far as they are below ROOT."""
    places = [Path(os.path.normpath(root / _DEPTH / name)) for name in names]
    return [each for each in places if root in each.parents]


def _kept(key: str, dump: Callable[[Path], None]) -> Path:
    kept = usable(cache_part("vmlinux") / key[:32])
    header = writable(kept, unless=_has_header) / NAME
    if not _has_header(header.parent):
        with memory_file() as dumped:
            dump(dumped)
            write_whole(header, dumped.read_bytes())
    return header


def _has_header(directory: Path) -> bool:
    header = directory / NAME
    return os.path.exists(header) and is_trusted(header)
