"""What the tests of every link type share: a row's stage, its link, objects loaded once."""

from __future__ import annotations

import contextlib
import os
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, features, libbpf, requirements
from pytest_bpflink.selftests.conformance import stages
from pytest_bpflink.selftests.conformance.network_stages import Sockets
from pytest_bpflink.selftests.conformance.outcomes import Outcomes
from pytest_bpflink.selftests.conformance.row import Row
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import BpfFs, Link, Object
    from pytest_bpflink.selftests.conformance.stages import Stage


def _loading(*wanted: str, among: tuple[str, ...] = ()) -> object:
    """Make the fixture that loads programs for all tests, since loading takes longer than those.

    Those of several rows are loaded at once, since to open their file takes longer than to load
    them; where that fails it is found out for each row which of them it is.
    """
    name = stages.fixture_of(*wanted)

    @pytest.fixture(scope="session", name=name)
    def loaded(request: pytest.FixtureRequest) -> Iterator[Object]:
        shared: Object | None = request.getfixturevalue(_fixture_of_all(among)) if among else None
        # What is shared is closed by the fixture that loaded it.
        one = contextlib.nullcontext(shared) if shared else stages.load(request, *wanted)
        with one as programs:
            stages.loaded_for_all[name] = programs
            yield programs
            del stages.loaded_for_all[name]

    return loaded


def _loading_all(*wanted: str) -> object:
    @pytest.fixture(scope="session", name=_fixture_of_all(wanted))
    def loaded(request: pytest.FixtureRequest) -> Iterator[Object | None]:
        try:
            programs = stages.load(request, *wanted)
        except BpfError:
            yield None
            return
        with programs:
            yield programs

    return loaded


def _fixture_of_all(wanted: tuple[str, ...]) -> str:
    return f"all {stages.fixture_of(*wanted)}"


def _together() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return for the programs of a row those to load with them: what came with the same release."""
    # A map of sockets is the target of its programs, and no two rows shall have the same.
    releases = {row.programs: (row.programs[0], row.since) for row in ROWS}
    releases = {programs: key for programs, key in releases.items() if key[0] != Sockets.source}
    together: dict[tuple[str, str], tuple[str, ...]] = {}
    for (source, *programs), release in releases.items():
        together[release] = (*together.get(release, (source,)), *programs)
    # One that is alone needs nothing beside its own.
    return {
        programs: together[release]
        for programs, release in releases.items()
        if together[release] != programs
    }


_all = _together()
_loaded = [
    *(
        _loading(*wanted, among=_all.get(wanted, ()))
        for wanted in {stages.STEPPER, *(row.programs for row in ROWS)}
    ),
    *(_loading_all(*wanted) for wanted in set(_all.values())),
]
globals().update({f"_loaded_{number}": each for number, each in enumerate(_loaded)})


@pytest.fixture(scope="session")
def _shared_bpffs(bpffs_factory: Callable[..., BpfFs]) -> Iterator[BpfFs]:
    with bpffs_factory() as mounted:
        yield mounted


@pytest.fixture
def pin(_shared_bpffs: BpfFs) -> Iterator[Path]:
    """Where the test may pin a link: a mount of its own takes longer than the test."""
    path = _shared_bpffs / "link"
    yield path
    path.unlink(missing_ok=True)


def pytest_runtest_setup(item: pytest.Function) -> None:
    """Write down of which row a test is, and skip it before its fixtures if that is not there."""
    row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
    if isinstance(row, Row):
        Outcomes(item.user_properties).write("row", f"{row.id} {_system()}")
        if row.id in _absent:
            pytest.skip(_absent[row.id])


@cache
def _system() -> str:
    return f"{os.uname().release} {libbpf.version()}"


@pytest.fixture
def outcome(stage: Stage) -> Outcomes:
    """Do an operation, and write down for the page on link types what it gave."""
    return Outcomes(stage.request.node.user_properties)


@pytest.fixture(scope="session")
def places() -> Iterator[dict[str, Any]]:
    """Cgroups, network namespaces, devices that tests share, unless they ask for `own_target`."""
    with contextlib.ExitStack() as undo:
        yield {"undo": undo}


@pytest.fixture
def own_target() -> None:
    """Give a stage a target that no other test has: this one ends it, or needs two."""


@pytest.fixture
def stage(row: Row, request: pytest.FixtureRequest) -> Stage:
    """The row's target, entered and ready to be triggered."""
    made: Stage = _or_absent(row, request, partial(_make_stage, row, request))
    return made


@pytest.fixture
def link(row: Row, stage: Stage) -> Link:
    """The row's first program, attached."""
    attached: Link = _or_absent(row, stage.request, stage.attach)
    _there.add(row.id)
    return attached


@pytest.fixture
def found() -> tuple[set[str], set[str]]:
    """Return the rows that were attached so far, and those that were skipped."""
    return _there, set(_absent)


# Rows that this kernel or libbpf lacks, and why: each is found out once.
_absent: dict[str, str] = {}
_there: set[str] = set()


def _or_absent(row: Row, request: pytest.FixtureRequest, make: Callable[[], Any]) -> Any:
    """Make something of a row's, or skip or fail as `requirements` has it."""
    try:
        return make()
    except BpfError as error:
        absence = error
    try:
        requirements.absent(request.config, row.id, absence, since=row.since, options=row.config)
    except pytest.skip.Exception as skipped:
        _absent[row.id] = str(skipped)
        raise


def _make_stage(row: Row, request: pytest.FixtureRequest) -> Stage:
    if row.libbpf:
        features.require_libbpf(row.libbpf, what=f"link row {row.id}")
    return row.make_stage(request)
