"""The libbpfs of a run; several are a second axis of the matrix, beside kernels.

Knows `--bpf-libbpf`, its default, and the id of a pair of kernel and libbpf. A process loads one
libbpf, so each pair has its own workers. `building.libbpf_choice` finds and builds a libbpf.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_bpflink.session.kernel import MatrixKernel
    from pytest_bpflink.system.progress import Progress


def asked_for(config: pytest.Config) -> tuple[list[str], Path]:
    """Return the SPECs of --bpf-libbpf, and the directory that relative paths start from.

    Raises UsageError for a repeated SPEC, and for an empty SPEC among several.
    """
    value, directory = config.option.bpf_libbpf, config.invocation_params.dir
    if value is None:
        value = os.environ.get("BPFLINK_LIBBPF") or None
    if value is None:
        value = config.getini("bpflink_libbpf")
        directory = config.inipath.parent if config.inipath else directory
    if "," not in value or os.path.exists(directory / os.path.expanduser(value)):
        return [value], directory
    specs = [spec.strip() for spec in value.split(",")]
    for number, spec in enumerate(specs):
        if not spec:
            raise pytest.UsageError("--bpf-libbpf: a SPEC is empty; write --bpf-libbpf system,1.7")
        if spec in specs[:number]:
            raise pytest.UsageError(f"--bpf-libbpf: {spec} is given twice")
    return specs, directory


def pairs(kernels: Iterable[MatrixKernel], specs: Sequence[str]) -> list[MatrixKernel]:
    """Return each kernel with each libbpf; with several libbpfs, ids name both."""
    if len(specs) < 2:
        return list(kernels)
    ids = _ids(specs)
    return [
        replace(kernel, id=f"{kernel.id}-{name}", libbpf_spec=spec)
        for kernel in kernels
        for spec, name in zip(specs, ids, strict=True)
    ]


def find(
    kernels: Sequence[MatrixKernel], progress: Progress, *, directory: Path
) -> list[MatrixKernel]:
    """Find or build the libbpf of each pair. Raises UsageError."""
    from pytest_bpflink.building import libbpf_choice, libbpf_library

    found: dict[str | None, tuple[str | None, str | None]] = {None: (None, None)}
    for spec in dict.fromkeys(kernel.libbpf_spec for kernel in kernels):
        if spec is None:
            continue
        try:
            path = libbpf_choice.choose(spec, progress, directory=directory)
            release = libbpf_library.release(path)
        except libbpf_library.LibbpfError as error:
            raise pytest.UsageError(f"--bpf-libbpf {spec}: {error}") from None
        # The system's libbpf has a name for the loader and no path.
        found[spec] = path if "/" in path else libbpf_library.SYSTEM, release
    return [
        replace(kernel, libbpf=path, libbpf_release=release)
        for kernel in kernels
        for path, release in [found[kernel.libbpf_spec]]
    ]


def use_chosen(config: pytest.Config) -> None:
    """Have this process use the libbpf that the run asks for. Raises UsageError.

    Where the run asks for several, each worker is assigned one, and this process needs none.
    """
    specs, directory = asked_for(config)
    if len(specs) > 1:
        return
    (spec,) = specs
    config.option.bpf_libbpf = spec
    if spec == "system":
        return
    from pytest_bpflink.binding import libbpf
    from pytest_bpflink.building import libbpf_choice, libbpf_library
    from pytest_bpflink.session.terminal import Progress

    progress = Progress(config)
    try:
        chosen = libbpf_choice.choose(spec, progress, directory=directory)
        libbpf.use(chosen)
    except (libbpf_library.LibbpfError, RuntimeError) as error:
        raise pytest.UsageError(f"--bpf-libbpf {spec}: {error}") from None
    finally:
        progress.done()
    config.option.bpf_libbpf = chosen


def _ids(specs: Sequence[str]) -> list[str]:
    ids: list[str] = []
    for spec in specs:
        # Of a path the part before src/libbpf.so and the like: libbpf-1.7 of /src/libbpf-1.7/src.
        parts = [part for part in Path(spec).parts if not re.match(r"(src|lib\w*|.*\.so.*)$", part)]
        name = re.sub(r"[^\w.+-]+", "_", parts[-1] if "/" in spec and parts else Path(spec).name)
        name = name.removeprefix("libbpf").lstrip("-") or "libbpf"
        taken = f"libbpf{name}" if name[0].isdigit() else f"libbpf-{name}"
        while taken in ids:
            taken += "~"
        ids.append(taken)
    return ids
