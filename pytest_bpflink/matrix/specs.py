"""The kernels that `--kernel` asks for: single SPECs, and the id that each has in test ids.

Knows the options `--kernel` and `bpflink_kernels`. `vm.kernels` knows which kernel a SPEC names.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.session.kernel import NATIVE, MatrixKernel, native
from pytest_bpflink.session.options import INI, INI_OPTION
from pytest_bpflink.vm.kernels.spelling import Spelled, spelled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# File and directory names that say what a file is, not which kernel it is.
_NAMELESS = frozenset({"Image", "arch", "arm64", "boot", "bzImage", "compressed", "lib", "modules"})
_NAMELESS |= {"Image.gz", "usr", "vmlinux", "vmlinuz", "x86", "x86_64"}


def asked_for(config: pytest.Config) -> list[str]:
    """Return the SPECs of --kernel, in their order.

    A kernel that is also named explicitly is not repeated when a pattern or the ini option yields
    it again. Raises UsageError.
    """
    named = list(_split(config.option.kernel, ",", config.invocation_params.dir))
    specs: list[str] = []
    for spec in named:
        several = _of_project(config) if spec == INI else [spec]
        for one in several:
            found = _expanded(one, config)
            if found == [spec]:
                specs.append(spec)  # also a repeated one, which `requested` refuses
            else:
                specs += [name for name in found if name not in {*specs, *named}]
    return specs


def _of_project(config: pytest.Config) -> list[str]:
    # -o sets the option without a file.
    file = config.inipath
    directory = file.parent if file else config.invocation_params.dir
    specs = list(_split(config.getini(INI_OPTION), r",|\s", directory))
    if not specs or INI in specs:
        where = file or "the project's pytest.toml, pyproject.toml, pytest.ini or tox.ini"
        form = "native 6.1" if file and file.suffix != ".toml" else '["native", "6.1"]'
        raise pytest.UsageError(
            f"--kernel {INI}: {INI_OPTION} names no kernels in {where}; write there"
            f" {INI_OPTION} = {form}, or name them here"
        )
    parts = [spelled(spec, directory) for spec in specs]
    return [
        spec if part.path is None or ("/" not in spec and not part.prefix) else str(part)
        for spec, part in zip(specs, parts, strict=True)
    ]


def _split(values: list[str], separator: str, directory: Path) -> Iterator[str]:
    """Yield the SPECs in some values. A value that is an existing path is one SPEC."""
    for value in values:
        path = spelled(value, directory).path
        if "/" in value and path and os.path.exists(path):
            yield value
        else:
            yield from re.split(rf"\s*(?:{separator})\s*", value.strip())


def _expanded(spec: str, config: pytest.Config) -> list[str]:
    if not any(character in spec for character in "*?["):
        return [spec]
    from pytest_bpflink.matrix import kernel_sources
    from pytest_bpflink.vm import kernels

    store = kernels.Store(added=kernel_sources.of(config))
    try:
        return kernels.expand(spec, store=store, progress=_say)
    except kernels.KernelError as error:
        raise pytest.UsageError(f"--kernel {spec}: {error}") from None


def _say(text: str) -> None:
    # Ids must be known before pytest has a terminal reporter.
    sys.stderr.write(f"{text}\n")


def requested(specs: Iterable[str]) -> list[MatrixKernel]:
    """Return the kernels that SPECs ask for, in their order.

    Raises UsageError for an empty or a repeated SPEC.
    """
    kernels: list[MatrixKernel] = []
    seen: set[str] = set()
    for spec in specs:
        if not spec:
            raise pytest.UsageError("--kernel: a SPEC is empty; write --kernel native,6.1")
        same = str(_real(spec))
        if same in seen:
            raise pytest.UsageError(f"--kernel: {spec} is given twice")
        seen.add(same)
        if spec == NATIVE:
            kernels.append(native())
        else:
            kernels.append(MatrixKernel(spec, _free_id(spec, {kernel.id for kernel in kernels})))
    return kernels


def _real(spec: str) -> Spelled:
    parts = spelled(spec)
    return replace(parts, path=parts.path.resolve()) if parts.path else parts


def _free_id(spec: str, taken: set[str]) -> str:
    """Return a short id for test ids: a release as it is, the distinctive part of others."""
    parts = _real(spec)
    name = _path_name(parts.path) + parts.suffix if parts.path else parts.suffix.rpartition("/")[2]
    name = f"{parts.arch}_{name}" if parts.arch else name
    # xdist writes the id into "popen//id=...", pytest between "[" and "]".
    name = re.sub(r"[^\w.+-]+", "_", name) or "image"
    candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(candidate for candidate in candidates if candidate not in taken | {NATIVE})


def _path_name(path: Path) -> str:
    for part in (path.name, *(parent.name for parent in path.parents)):
        if part and part not in _NAMELESS:
            if path.suffix == ".deb":
                return part.removeprefix("linux-image-").partition("_")[0]
            return part.removeprefix("vmlinuz-").removeprefix("bzImage-")
    return "kernel"
