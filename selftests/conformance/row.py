"""The columns of the table in `rows`, and functions to write rows with."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_bpflink.features.options import options_of
from pytest_bpflink.selftests.conformance.outcomes import OK

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import KernelInfo, LinkType
    from pytest_bpflink.selftests.conformance import stages


@dataclass(frozen=True)
class Row:
    """A link type, or a variant of one, and how its links differ from others."""

    id: str
    link_type: LinkType
    make_stage: Callable[[pytest.FixtureRequest], stages.Stage]
    since: str
    """The release that brought it; an older kernel may lack it."""
    programs: tuple[str, ...]
    """A source, and its programs that all tests share; a source alone stands for all of them."""
    needs: str = ""
    """The feature that needs the same options of the kernel; if empty, its link type does."""
    config: tuple[str, ...] = ()
    """Options of the kernel without which it may be absent, beyond those of `needs`."""
    libbpf: str = ""
    """The release of libbpf that brought its section; empty if 1.0 has it."""
    info: Callable[[Any], dict[str, Any]] = field(default=lambda _stage: {})
    """The fields of its info beyond id, program and type."""
    info_since: tuple[int, ...] = ()
    """The release that brought these fields, if later than `since`."""
    update: int = errno.EINVAL
    """`OK`, or the errno of an update."""
    detach: int = errno.EOPNOTSUPP
    """`OK`, or the errno of a detach."""
    detached: dict[str, int] = field(default_factory=dict)
    """The fields of its info that show that it has lost its target."""
    precedence: tuple[int, ...] = ()
    """The order in which an update finds mistakes: ENOLINK for a lost target, EPERM for a wrong old
    program, EINVAL for a wrong new one."""
    sibling: tuple[str, ...] = ()
    """Source and name of a program of the same type for another hook."""
    takes_sibling: Callable[[KernelInfo], int] = field(default=lambda _kernel: errno.EINVAL)
    """`OK`, or the errno of an update to the sibling."""
    retargeted: tuple[str, ...] = ()
    """Source and name of a program, or of a struct_ops map, for the same hook with another target,
    which the program itself names."""
    takes_retargeted: int = errno.EINVAL
    """The errno of an update to it."""
    many_targets: bool = False
    """Whether a program can be attached to several targets, since its section names none."""
    keeps_module: Callable[[KernelInfo], bool] = field(default=lambda _kernel: True)
    """Whether a link to a function of a module keeps the module loaded."""
    target_ends: bool = False
    """Whether its target can go away while the link is held."""
    again: Callable[[KernelInfo], int] = field(default=lambda _kernel: OK)
    """`OK`, or the errno of attaching the same program to the same target a second time."""
    again_later: Callable[[KernelInfo], int] = field(default=lambda _kernel: OK)
    """`OK`, or the errno of attaching the program anew when its links are gone."""
    alone: bool = False
    """Whether a link keeps every other program off its target, with the errno of `again`."""
    distinct: bool = False
    """Whether an update to the program of another link to the target is refused, as `again`."""
    counts_packets: bool = False
    """Whether a trigger makes its program run exactly once, for one packet."""
    brief: bool = False
    """Whether most checks are left out, since the kernel runs the same code for another row."""

    @property
    def options(self) -> tuple[str, ...]:
        """All options of the kernel without which it may be absent."""
        needs = self.needs or f"link:{self.link_type.name.lower()}"
        return (*options_of(needs), *self.config)


def before(release: tuple[int, ...], old: int, new: int) -> Callable[[KernelInfo], int]:
    """Give `old` on kernels before a release, and `new` from then on."""
    return lambda kernel: old if kernel.version < release else new


def always(number: int) -> Callable[[KernelInfo], int]:
    """Give one errno on all kernels."""
    return lambda _kernel: number


def programs_of(stage: type[stages.Stage], name: str) -> tuple[str, ...]:
    """Return the source and the programs that a stage of a kind loads."""
    return stage.source, *stage.programs(f"on_{name}")


def program_of(stage: type[stages.Stage], name: str, **options: Any) -> Any:
    """Return a function that makes a stage of a kind for the program of a name."""
    return lambda request: stage(request, f"on_{name}", **options)


def row_of(
    name: str, link_type: LinkType, stage: type[stages.Stage], since: str, **more: Any
) -> Row:
    """Make a row. `program` is by default the row's name, `options` are for its stage."""
    options = more.pop("options", {})
    program = more.pop("program", name)
    make_stage = program_of(stage, program, **options)
    return Row(name, link_type, make_stage, since, programs_of(stage, program), **more)


# `Row.precedence` of most types.
TARGET_FIRST = (errno.ENOLINK, errno.EPERM, errno.EINVAL)
TARGET_LAST = (errno.EPERM, errno.EINVAL, errno.ENOLINK)
