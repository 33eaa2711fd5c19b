"""What a row of `conformance` says of a link type, and what rows are written with."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_bpflink.selftests.conformance.outcomes import OK

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import KernelInfo, LinkType
    from pytest_bpflink.selftests.conformance import stages


@dataclass(frozen=True)
class Row:
    """A link type or a flavour of it, and what is special about it."""

    id: str
    link_type: LinkType
    make_stage: Callable[[pytest.FixtureRequest], stages.Stage]
    since: str
    """The release that has it; on an older one it may be missing."""
    programs: tuple[str, ...]
    """The source and the programs of it that are loaded once for all tests, or the source."""
    config: tuple[str, ...] = ()
    """Options without which a kernel may lack it."""
    libbpf: str = ""
    """The libbpf that knows its section, where 1.0 does not."""
    info: Callable[[Any], dict[str, Any]] = field(default=lambda _stage: {})
    """What its info holds beyond id, program and type."""
    info_since: tuple[int, ...] = ()
    """The release from which on it does, where that is later."""
    update: int = errno.EINVAL
    detach: int = errno.EOPNOTSUPP
    detached: dict[str, int] = field(default_factory=dict)
    """What its info holds once it has lost its target."""
    precedence: tuple[int, ...] = ()
    """Which error of an update wins: ENOLINK without a target, EPERM for a wrong old program,
    EINVAL for a wrong new one."""
    sibling: tuple[str, ...] = ()
    """Source and name of a program of the same type for another hook."""
    takes_sibling: Callable[[KernelInfo], int] = field(default=lambda _kernel: errno.EINVAL)
    """What an update to that gives."""
    many_targets: bool = False
    """Whether a program can be attached to several targets, since its section names none."""
    keeps_module: Callable[[KernelInfo], bool] = field(default=lambda _kernel: True)
    """Whether a module stays loaded while its function is the target."""
    target_ends: bool = False
    """Whether its target can go away while it is held."""
    again: Callable[[KernelInfo], int] = field(default=lambda _kernel: OK)
    """What attaching the same program to the same target a second time gives."""
    again_later: Callable[[KernelInfo], int] = field(default=lambda _kernel: OK)
    """What attaching it anew gives when the first link is gone."""
    counts_packets: bool = False
    """Whether a trigger makes its program run exactly once, for one packet."""
    brief: bool = False
    """Whether most checks would but repeat those of another row, which runs the same code."""


def before(release: tuple[int, ...], old: int, new: int) -> Callable[[KernelInfo], int]:
    """Give one errno on kernels before a release, another from then on."""
    return lambda kernel: old if kernel.version < release else new


def always(number: int) -> Callable[[KernelInfo], int]:
    """Give one errno on all kernels."""
    return lambda _kernel: number


def programs_of(stage: type[stages.Stage], name: str) -> tuple[str, ...]:
    """Say what a stage of a kind loads."""
    return stage.source, *stage.programs(f"on_{name}")


def program_of(stage: type[stages.Stage], name: str, **options: Any) -> Any:
    """Make a stage of a kind for the program of a name."""
    return lambda request: stage(request, f"on_{name}", **options)


def row_of(
    name: str, link_type: LinkType, stage: type[stages.Stage], since: str, **more: Any
) -> Row:
    """Make a row. `program` is its program's name if not its own, `options` are its stage's."""
    options = more.pop("options", {})
    program = more.pop("program", name)
    make_stage = program_of(stage, program, **options)
    return Row(name, link_type, make_stage, since, programs_of(stage, program), **more)


# `Row.precedence` of most.
TARGET_FIRST = (errno.ENOLINK, errno.EPERM, errno.EINVAL)
TARGET_LAST = (errno.EPERM, errno.EINVAL, errno.ENOLINK)
