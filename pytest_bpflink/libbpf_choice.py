"""Which libbpf a run uses: a SPEC to the shared object to load.

Knows what a SPEC can be, and whether a shared object is a libbpf that will do. Making one from
source is `libbpf_build`'s, using it `libbpf`'s.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink import libbpf

if TYPE_CHECKING:
    from pytest_bpflink.libbpf_build import Progress

SYSTEM = "system"
NEWEST = "newest"

_OLDEST = (1, 0)


class LibbpfError(Exception):
    """There is no such libbpf, or none that can be used; the sentence says why, and what to do."""


def choose(spec: str, progress: Progress, *, directory: Path) -> str:
    """Return what to give to `libbpf.use()`; builds it where it is missing.

    A relative path is taken from `directory`. Raises LibbpfError.
    """
    spec = spec.strip()
    path = directory / Path(spec).expanduser()
    if spec == SYSTEM:
        return libbpf.SYSTEM
    if is_version(spec) or spec == NEWEST:
        return str(_version(spec, progress))
    if not spec:
        raise LibbpfError("a SPEC is needed")
    if not path.exists():
        raise LibbpfError(
            f"neither {SYSTEM!r}, {NEWEST!r}, a version such as 1.7, nor a path: no {path}"
        )
    library = _tree(path, progress) if path.is_dir() else path.resolve()
    check(library)
    return str(library)


def release(library: str) -> str:
    """Return the release of a shared object that `choose` has returned, such as `1.7.0`."""
    loaded = ctypes.CDLL(library)
    loaded.libbpf_version_string.restype = ctypes.c_char_p
    return str(loaded.libbpf_version_string().decode()).removeprefix("v")


def is_version(spec: str) -> bool:
    """Whether a SPEC is the number of a release, in full (1.7.0) or in part (1.7)."""
    return re.fullmatch(r"\d+(\.\d+){1,2}", spec) is not None


def check(library: Path) -> None:
    """Raise LibbpfError for a file that is no libbpf, or one that is too old."""
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        raise LibbpfError(f"it can't be loaded: {error}") from error
    if not hasattr(loaded, "bpf_object__open_file"):
        raise LibbpfError(f"{library} is no libbpf: it has no bpf_object__open_file")
    # libbpf has a function for it from 0.6 on.
    if not hasattr(loaded, "libbpf_major_version") or not loaded.libbpf_major_version():
        raise LibbpfError(f"{library} is older than libbpf 1.0, the first that will do")


def _version(spec: str, progress: Progress) -> Path:
    from pytest_bpflink import libbpf_build

    if is_version(spec) and tuple(map(int, spec.split(".")[:2])) < _OLDEST:
        raise LibbpfError("libbpf 1.0 is the first that will do")
    return libbpf_build.version(spec, progress)


def _tree(tree: Path, progress: Progress) -> Path:
    from pytest_bpflink import libbpf_build

    return libbpf_build.tree(tree.resolve(), progress)
