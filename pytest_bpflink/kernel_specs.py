"""What `--kernel` is given, as single SPECs: the project's list, and what patterns stand for.

Knows pytest's options and ini-options. What a SPEC means is `vm.kernels`' business, what an item
is called on it is `matrix`'s.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

INI = "ini"
INI_OPTION = "bpflink_kernels"


def asked_for(config: pytest.Config) -> list[str]:
    """Return the SPECs of --kernel, in their order.

    What a pattern or the ini-option has beside what is named otherwise, too, is left out. Raises
    UsageError.
    """
    named = list(_split(config.option.kernel))
    specs: list[str] = []
    for spec in named:
        several = _of_project(config) if spec == INI else [spec]
        for one in several:
            found = _expanded(one)
            if found == [spec]:
                specs.append(spec)  # also twice, which is refused
            else:
                specs += [name for name in found if name not in {*specs, *named}]
    return specs


def _split(values: list[str]) -> Iterator[str]:
    return (part.strip() for value in values for part in value.split(","))


def _of_project(config: pytest.Config) -> list[str]:
    specs = list(_split(config.getini(INI_OPTION)))
    if not specs or INI in specs:
        where = config.inipath or "the project's pytest.toml, pyproject.toml, pytest.ini or tox.ini"
        raise pytest.UsageError(
            f"--kernel {INI}: {INI_OPTION} names no kernels in {where}; write there"
            f' {INI_OPTION} = ["native", "6.1"], or name them here'
        )
    # With -o there need be no file.
    directory = config.inipath.parent if config.inipath else config.invocation_params.dir
    return [str(directory / Path(spec).expanduser()) if "/" in spec else spec for spec in specs]


def _expanded(spec: str) -> list[str]:
    if not any(character in spec for character in "*?["):
        return [spec]
    # It costs what a run on this kernel alone does without.
    from pytest_bpflink.vm import kernels

    try:
        return kernels.expand(spec, progress=_say)
    except kernels.KernelError as error:
        raise pytest.UsageError(f"--kernel {spec}: {error}") from None


def _say(text: str) -> None:
    # Ids must be known before pytest has a terminal reporter.
    sys.stderr.write(f"{text}\n")
