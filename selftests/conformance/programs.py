"""Loading the suite's programs: once for all tests, since that takes longer than a test, or anew.

Each set of programs that tests share has a session fixture. It closes what it loaded, and the check
for leaks takes objects that appear in a session fixture for objects that may outlive a test.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import pytest

from pytest_bpflink import BpfError, Object, ProgType
from pytest_bpflink.binding import libbpf
from pytest_bpflink.selftests.support.witness import SyscallWitness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Names: TypeAlias = tuple[str, ...]
"""A source, `cgroup` for `conformance_cgroup.bpf.c`, and programs of it; a source alone is all."""

STEPPER: Names = ("target", "stepper")
"""The program one of whose functions is replaced."""

_PROGS = Path(__file__).parent / "progs"


class Programs:
    """Loads programs; what the fixture `programs` gives."""

    def __init__(self) -> None:
        self._shared: dict[str, Object] = {}

    def shared(self, request: pytest.FixtureRequest, *names: str) -> Object:
        """Return programs that all tests share; a session fixture loads and closes them."""
        fixture = _fixture_of(names)
        if fixture not in self._shared:  # pytest would find the loaded object too, but slowly
            self._shared[fixture] = request.getfixturevalue(fixture)
        return self._shared[fixture]

    def load(
        self,
        request: pytest.FixtureRequest,
        *names: str,
        before: Callable[[Object], object] | None = None,
    ) -> Object:
        """Load programs anew, for the caller to close.

        Programs that filter by process get this process's number, programs that replace a function
        the program that has it. `before` may change the opened object further.
        """
        source, *wanted = names
        opened = Object.open(_PROGS / f"conformance_{source}.bpf.c")
        with contextlib.ExitStack() as undo:
            undo.callback(opened.close)
            for name, program in opened.programs.items():
                is_wanted = not wanted or name in wanted
                program.set_autoload(is_wanted)
                if is_wanted and program.type is ProgType.EXT:
                    libbpf.call(
                        "bpf_program__set_attach_target",
                        program.pointer,
                        self.shared(request, *STEPPER).program("stepper").fd,
                        b"step",
                        doing="name the function to replace",
                    )
            if "target_pid" in opened.rodata:
                opened.rodata.update(SyscallWitness.rodata())
            if before:
                before(opened)
            opened.load()
            undo.pop_all()
        return opened


def session_fixtures(batches: Mapping[Names, Names]) -> ModuleType:
    """Return a plugin with a session fixture for each set of programs.

    `batches` names for each set the batch that it is loaded with, which may be the set itself: to
    open a source takes longer than to load its programs. If a batch can't be loaded, each set of it
    is loaded by itself, and only the sets that the kernel lacks a program of raise `BpfError`.
    """
    fixtures = [_loading(names, batch) for names, batch in batches.items()]
    fixtures += [_loading_batch(batch) for batch in set(batches.values()) - batches.keys()]
    plugin = ModuleType("shared_programs")
    vars(plugin).update({f"loaded_{number}": each for number, each in enumerate(fixtures)})
    return plugin


def _loading(names: Names, batch: Names) -> object:
    @pytest.fixture(scope="session", name=_fixture_of(names))
    def loaded(request: pytest.FixtureRequest, programs: Programs) -> Iterator[Object]:
        shared: Object | None = None
        if batch != names:
            shared = request.getfixturevalue(_fixture_of(batch))
        if shared:
            yield shared  # which the batch's fixture closes
            return
        with programs.load(request, *names) as own:
            yield own

    return loaded


def _loading_batch(names: Names) -> object:
    @pytest.fixture(scope="session", name=_fixture_of(names))
    def loaded(request: pytest.FixtureRequest, programs: Programs) -> Iterator[Object | None]:
        try:
            found = programs.load(request, *names)
        except BpfError:
            yield None
            return
        with found:
            yield found

    return loaded


def _fixture_of(names: Names) -> str:
    return ":".join(("object", *names))
