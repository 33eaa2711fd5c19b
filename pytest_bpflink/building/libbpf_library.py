"""The words that `--bpf-libbpf` takes, and the check whether a shared object is a usable libbpf."""

from __future__ import annotations

import contextlib
import ctypes
import re
from typing import TYPE_CHECKING

from pytest_bpflink.system.libc import libc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SYSTEM = "system"
"""The SPEC of the distribution's libbpf, which the dynamic linker finds as `libbpf.SONAME`."""

NEWEST = "newest"
"""The SPEC of the newest release whose source the distribution has."""

OLDEST = (1, 0)
"""The oldest release that can be used."""


class LibbpfError(Exception):
    """A libbpf can't be found, built or used; the sentence says why, and what to do."""


def release(library: str) -> str:
    """Return the release, such as `1.7.0`, of a library that `libbpf_choice.choose` returned."""
    with _loaded(library) as loaded:
        loaded.libbpf_version_string.restype = ctypes.c_char_p
        return str(loaded.libbpf_version_string().decode()).removeprefix("v")


def is_version(spec: str) -> bool:
    """Whether a SPEC is the number of a release, in full (1.7.0) or in part (1.7)."""
    return re.fullmatch(r"\d+(\.\d+){1,2}", spec) is not None


def check(library: Path) -> None:
    """Raise LibbpfError for a file that is no libbpf, or a libbpf that is too old."""
    try:
        with _loaded(str(library)) as loaded:
            is_libbpf = hasattr(loaded, "bpf_object__open_file")
            # libbpf has a function for its major version from 0.6 on.
            has_version = hasattr(loaded, "libbpf_major_version")
            is_old = not has_version or not loaded.libbpf_major_version()
    except OSError as error:
        raise LibbpfError(f"it can't be loaded: {error}") from error
    if not is_libbpf:
        raise LibbpfError(f"{library} is no libbpf: it has no bpf_object__open_file")
    if is_old:
        raise LibbpfError(f"{library} is older than libbpf 1.0, the first that will do")


@contextlib.contextmanager
def _loaded(library: str) -> Iterator[ctypes.CDLL]:
    """Load a shared object, and unload it again.

    While it is loaded the dynamic linker returns it for `libbpf.SONAME`, which each libbpf has,
    and not the system's.
    """
    loaded = ctypes.CDLL(library)
    try:
        yield loaded
    finally:
        libc().dlclose(ctypes.c_void_p(loaded._handle))  # noqa: SLF001 - ctypes documents it
