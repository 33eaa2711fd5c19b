"""Which libbpf a run uses: finds the shared object that a SPEC names.

`libbpf_library` checks whether a shared object is a libbpf, `libbpf_build` builds one from source,
and `binding.libbpf` loads the chosen one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.building.libbpf_library import (
    NEWEST,
    OLDEST,
    SYSTEM,
    LibbpfError,
    check,
    is_version,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_bpflink.system.progress import Progress


def choose(spec: str, progress: Progress, *, directory: Path) -> str:
    """Return the argument for `libbpf.use()`, and build the library where it is missing.

    A relative path starts at `directory`. Raises LibbpfError.
    """
    spec = spec.strip()
    path = directory / os.path.expanduser(spec)
    if spec == SYSTEM:
        return libbpf.SONAME
    if is_version(spec) or spec == NEWEST:
        return str(_version(spec, progress))
    if not spec:
        raise LibbpfError("a SPEC is needed")
    if not os.path.exists(path):
        raise LibbpfError(
            f"neither {SYSTEM!r}, {NEWEST!r}, a version such as 1.7, nor a path: no {path}"
        )
    library = _tree(path, progress) if path.is_dir() else path.resolve()
    check(library)
    return str(library)


def _version(spec: str, progress: Progress) -> Path:
    from pytest_bpflink.building import libbpf_build

    if is_version(spec) and tuple(map(int, spec.split(".")[:2])) < OLDEST:
        raise LibbpfError("libbpf 1.0 is the first that will do")
    return libbpf_build.version(spec, progress)


def _tree(tree: Path, progress: Progress) -> Path:
    from pytest_bpflink.building import libbpf_build

    return libbpf_build.tree(tree.resolve(), progress)
