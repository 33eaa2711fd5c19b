"""Fixtures of the suite: a row's stage and its link, the places and programs that tests share."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.features import probing
from pytest_bpflink.selftests.conformance.event_stages import copy_libc
from pytest_bpflink.selftests.conformance.network_stages import Sockets
from pytest_bpflink.selftests.conformance.outcomes import Outcomes
from pytest_bpflink.selftests.conformance.programs import STEPPER, Programs, session_fixtures
from pytest_bpflink.selftests.conformance.rows import ROWS
from pytest_bpflink.selftests.support.absence import made_or_absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import BpfFs, Link
    from pytest_bpflink.selftests.conformance.programs import Names
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

_PROGRAMS = "bpflink-conformance-programs"

# The rows that this kernel or libbpf lacks, by id, and why: found out once for all tests of a row.
_absent: dict[str, str] = {}
# The rows that were attached.
_present: set[str] = set()


@pytest.fixture(scope="session")
def programs(pytestconfig: pytest.Config) -> Programs:
    """The suite's programs, with a session fixture for each set that tests share."""
    if not pytestconfig.pluginmanager.has_plugin(_PROGRAMS):
        pytestconfig.pluginmanager.register(session_fixtures(_batches()), _PROGRAMS)
    return Programs()


@pytest.fixture(scope="session")
def shared_bpffs(bpffs_factory: Callable[..., BpfFs]) -> Iterator[BpfFs]:
    """A BPF FS for the pins of all tests: mounting one takes longer than a test."""
    with bpffs_factory() as mounted:
        yield mounted


@pytest.fixture
def pin(shared_bpffs: BpfFs) -> Iterator[Path]:
    """Where the test may pin a link."""
    path = shared_bpffs / "link"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def places() -> Iterator[dict[str, Any]]:
    """Cgroups, network namespaces and devices that tests share, but for tests with `own_target`."""
    with contextlib.ExitStack() as undo:
        yield {"undo": undo}


@pytest.fixture(scope="session")
def libc_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the C library for uprobes: only this process has the file mapped."""
    return copy_libc(tmp_path_factory.mktemp("uprobe"))


@pytest.fixture
def own_target() -> None:
    """Give each stage a target that no other test has, as the test ends its target or needs two."""


@pytest.fixture
def stage(row: Row, request: pytest.FixtureRequest) -> Stage:
    """The row's target, entered and ready to be triggered."""
    made: Stage = _or_absent(row, request, partial(make_stage, row, request))
    return made


@pytest.fixture
def link(row: Row, stage: Stage) -> Link:
    """The row's first program, attached."""
    attached: Link = _or_absent(row, stage.request, stage.attach)
    _present.add(row.id)
    return attached


@pytest.fixture
def outcome(stage: Stage) -> Outcomes:
    """Do an operation, and write its result down for the page on link types."""
    return Outcomes(stage.request.node.user_properties)


@pytest.fixture
def found() -> tuple[set[str], dict[str, str]]:
    """The ids of the rows that were attached so far, and of the skipped ones, with the reason."""
    return _present, _absent


def skip_if_absent(row: Row) -> None:
    """Skip a test of a row that was already found to be absent, with the same reason."""
    if row.id in _absent:
        pytest.skip(_absent[row.id])


def _or_absent(row: Row, request: pytest.FixtureRequest, make: Callable[[], Any]) -> Any:
    """Make something for a row; where that fails, skip or fail as `requirements` decides."""
    try:
        return made_or_absent(request.config, row.id, make, since=row.since, options=row.options)
    except pytest.skip.Exception as skipped:
        _absent[row.id] = str(skipped)
        raise


def make_stage(row: Row, request: pytest.FixtureRequest) -> Stage:
    """Make a row's stage. Raises `BpfError` where this kernel or libbpf lacks something for it."""
    if row.libbpf:
        probing.require_libbpf(row.libbpf, what=f"link row {row.id}")
    probing.require_bpf_lsm(row.options, what=f"link row {row.id}")
    return row.make_stage(request)


def _batches() -> dict[Names, Names]:
    """Return for each row's programs the programs of all rows of the same source and release."""
    releases = {row.programs: (row.programs[0], row.since) for row in ROWS}
    of_release: dict[tuple[str, str], Names] = {}
    for (source, *programs), release in releases.items():
        of_release[release] = (*of_release.get(release, (source,)), *programs)
    batches = {programs: of_release[release] for programs, release in releases.items()}
    # The map of sockets is the target of its programs, and no two rows may have the same target.
    alone = [programs for programs in batches if programs[0] == Sockets.source]
    siblings = [(*row.sibling, f"{row.sibling[1]}_alt") for row in ROWS if row.sibling]
    alone += [programs for programs in siblings if programs not in batches]
    return batches | {programs: programs for programs in (STEPPER, *alone)}
