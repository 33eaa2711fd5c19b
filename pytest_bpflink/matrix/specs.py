"""The kernels that `--kernel` asks for: single SPECs, and the id that each has in test ids.

Knows the options `--kernel` and `bpflink_kernels`. `vm.kernels` knows which kernel a SPEC names.
"""

from __future__ import annotations

import os
import re
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.session.kernel import NATIVE, MatrixKernel, native
from pytest_bpflink.session.options import INI, INI_OPTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
            found = _expanded(one)
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
    return [str(directory / os.path.expanduser(spec)) if "/" in spec else spec for spec in specs]


def _split(values: list[str], separator: str, directory: Path) -> Iterator[str]:
    """Yield the SPECs in some values. A value that is an existing path is one SPEC."""
    for value in values:
        if "/" in value and os.path.exists(directory / os.path.expanduser(value)):
            yield value
        else:
            yield from re.split(rf"\s*(?:{separator})\s*", value.strip())


def _expanded(spec: str) -> list[str]:
    if not any(character in spec for character in "*?["):
        return [spec]
    from pytest_bpflink.vm import kernels

    try:
        return kernels.expand(spec, progress=_say)
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
        same = str(_real(spec)) if is_path(spec) else spec
        if same in seen:
            raise pytest.UsageError(f"--kernel: {spec} is given twice")
        seen.add(same)
        if spec == NATIVE:
            kernels.append(native())
        else:
            kernels.append(MatrixKernel(spec, _free_id(spec, {kernel.id for kernel in kernels})))
    return kernels


def is_path(spec: str) -> bool:
    """Whether a SPEC is a path rather than a word or a release; as `vm.kernels.find` sees it."""
    if "/" in spec:
        return True
    return not re.match(r"\d+\.\d", spec) and os.path.exists(os.path.expanduser(spec))


def _real(path: str) -> Path:
    return Path(os.path.expanduser(path)).resolve()


def _free_id(spec: str, taken: set[str]) -> str:
    """Return a short id for test ids: a release as it is, the distinctive part of a path."""
    name = _path_name(_real(spec)) if is_path(spec) else spec
    # xdist writes the id into "popen//id=...", pytest between "[" and "]".
    name = re.sub(r"[^\w.+-]+", "_", name)
    candidates = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(candidate for candidate in candidates if candidate not in taken | {NATIVE})


def _path_name(path: Path) -> str:
    for part in (path.name, *(parent.name for parent in path.parents)):
        if part and part not in _NAMELESS:
            return part.removeprefix("vmlinuz-").removeprefix("bzImage-")
    return "kernel"
