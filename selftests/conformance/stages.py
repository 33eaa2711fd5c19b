"""Stages: the target of a link, what makes the link's program run, and what ends the target.

A target is a cgroup that the process has entered, a device, an event. `trigger()` does what the
program sees, from the test's own thread. Here are the base class and the stages for cgroups,
iterators and struct_ops; the others are in `event_stages` and `network_stages`.
"""

from __future__ import annotations

import contextlib
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_bpflink import BpfError, Link, Map, Program
from pytest_bpflink.binding import libbpf

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from pytest_bpflink import Cgroup, Object
    from pytest_bpflink.selftests.conformance.programs import Programs

LOCAL = "127.0.0.1"

_Place = TypeVar("_Place")


class _Row(Protocol):
    """The part of a row that a stage uses."""

    @property
    def make_stage(self) -> Callable[[pytest.FixtureRequest], Stage]:
        """Make a stage for the row's programs."""


class Stage:
    """A target, two programs for it with a counter each, and a program of another type."""

    source: str
    tries = 1

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        self.request = request
        self.name = program
        self.options = options
        self._undo = contextlib.ExitStack()
        request.addfinalizer(self._undo.close)
        self._programs: Programs = request.getfixturevalue("programs")
        self._wanted = self.source, *self.programs(program)
        self.object = self.load(*self._wanted)

    @staticmethod
    def programs(program: str) -> tuple[str, ...]:
        """Name the programs to load: a program, and the program that a link is updated to."""
        return program, f"{program}_alt"

    def load(self, source: str, *programs: str) -> Object:
        """Return some programs of a source, or all, loaded once for all tests that ask for them."""
        return self._programs.shared(self.request, source, *programs)

    def load_anew(self, source: str, *programs: str) -> Object:
        """Load the same programs for this test, which closes the object."""
        return self._programs.load(self.request, source, *programs, before=self.before_load)

    def before_load(self, opened: Object) -> None:
        """Change an object between opening and loading."""

    def renew(self) -> Object:
        """Replace the shared object by one of this test's own, which the test may close."""
        self.object = self._undo.enter_context(self.load_anew(*self._wanted))
        for name in ("first", "second", "target"):
            # A program for a target is another object's.
            kinds = Map if name == "target" else Program | Map
            if isinstance(self.__dict__.get(name), kinds):
                del self.__dict__[name]
        return self.object

    def twin(self) -> Stage:
        """Return another stage, for the same programs with another target."""
        row: _Row = self.request.getfixturevalue("row")
        return row.make_stage(self.request)

    def place(self, name: str, make: Callable[[contextlib.ExitStack], _Place]) -> _Place:
        """Make a place for all tests that ask for its name, or with `own_target` for this stage."""
        if "own_target" in self.request.fixturenames:
            return make(self._undo)
        places: dict[str, Any] = self.request.getfixturevalue("places")
        if name not in places:
            places[name] = make(places["undo"])
        made: _Place = places[name]
        return made

    def make_cgroup(self, undo: contextlib.ExitStack) -> Cgroup:
        """Make a cgroup. `undo` removes it, when every process must have left it."""
        cgroup: Cgroup = self.request.getfixturevalue("cgroup_factory")()

        def remove() -> None:
            if cgroup.path.exists():
                cgroup.remove()
            cgroup.close()

        undo.callback(remove)
        return cgroup

    def of_other_type(self) -> Program | Map:
        """Return a program that no link of this stage can be updated to."""
        return self.load("cgroup", "on_egress", "on_egress_alt").program("on_egress")

    @cached_property
    def first(self) -> Program | Map:
        """The program or the struct_ops map that the suite attaches."""
        return self.object.program(self.name)

    @cached_property
    def second(self) -> Program | Map:
        """The program or the map that the suite updates a link to."""
        return self.object.program(f"{self.name}_alt")

    @property
    def prog_id(self) -> int:
        """The program id in the info of a link to `first`."""
        return self.first.id

    @cached_property
    def target(self) -> object | None:
        """What programs are attached to; None if their section says it."""
        return None

    def close(self) -> None:
        """Undo what the stage made for itself, before the test's end."""
        self._undo.close()

    def attach(
        self, program: Program | Map | None = None, *, by: Callable[..., Link] | None = None
    ) -> Link:
        """Attach the first program, or another, by the fixture `bpf_link` or by another way."""
        given = {} if self.target is None else {"target": self.target}
        attach: Callable[..., Link] = by or self.request.getfixturevalue("bpf_link")
        return attach(program or self.first, **given, **self.options)

    def note(self, link_id: int) -> None:
        """Take note of a link that was made by other means than `attach`."""

    def ran(self) -> tuple[bool, bool]:
        """Trigger the hook, and say whether the first and whether the second program ran."""
        before = self.counts()
        for _ in range(self.tries):
            self.trigger()
        after = self.counts()
        return after[0] > before[0], after[1] > before[1]

    def trigger(self) -> None:
        """Do what the program sees."""
        raise NotImplementedError

    def end_target(self) -> None:
        """End the target while a link to it is held."""
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        """Return how often each of the two programs has run."""
        bss = self.object.bss
        return bss[f"{self.name}_calls"], bss[f"{self.name}_alt_calls"]


class InCgroup(Stage):
    """A cgroup that the process is in. `action` makes the hook run."""

    source = "cgroup"

    def __init__(
        self, request: pytest.FixtureRequest, program: str, action: Callable[[], None]
    ) -> None:
        super().__init__(request, program)
        self._action = action
        self._inside = contextlib.ExitStack()
        self.enter()
        self._undo.callback(self.leave)

    def enter(self) -> None:
        """Move the process into the cgroup."""
        self._inside.enter_context(self.target.entered())

    def leave(self) -> None:
        """Move the process back out of it."""
        self._inside.close()

    @cached_property
    def target(self) -> Cgroup:
        """A cgroup that tests of the same programs share: making one takes longer than a test."""
        return self.place(f"cgroup {self.name}", self.make_cgroup)

    def of_other_type(self) -> Program | Map:
        """Return a program for devices."""
        return self.load("net", "on_xdp", "on_xdp_alt").program("on_xdp")

    def trigger(self) -> None:
        """Make the hook run."""
        self._action()

    def end_target(self) -> None:
        """Leave the cgroup and remove it."""
        self.leave()
        self.target.close()
        self.target.path.rmdir()


class Iterator(Stage):
    """An iterator, which runs when somebody reads a file made from the link."""

    source = "iter"

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self._ids: list[int] = []

    def attach(
        self, program: Program | Map | None = None, *, by: Callable[..., Link] | None = None
    ) -> Link:
        """Attach, and remember the link for `trigger`."""
        link = super().attach(program, by=by)
        self.note(link.id)
        return link

    def note(self, link_id: int) -> None:
        """Remember a link for `trigger`."""
        self._ids.append(link_id)

    def trigger(self) -> None:
        """Make and read a file of each link that is still alive."""
        for link_id in tuple(self._ids):
            try:
                link = Link.by_id(link_id)
            except BpfError:
                self._ids.remove(link_id)
                continue
            with link:
                fd = libbpf.call("bpf_iter_create", link.fd, doing="make an iterator")
            with open(fd, "rb") as file:
                file.read()


class MapIterator(Iterator):
    """An iterator over the elements of a map."""

    @cached_property
    def target(self) -> object:
        """An array of two elements."""
        return self.object.map("elements")

    def twin(self) -> Stage:
        """Iterate over another array."""
        other = super().twin()
        other.target = self.object.map("others")
        return other


class CgroupIterator(Iterator):
    """An iterator over a cgroup alone."""

    @cached_property
    def target(self) -> object:
        """A cgroup that tests of the same programs share."""
        return self.place(f"cgroup {self.name}", self.make_cgroup)


class Congestion(Stage):
    """A congestion control for TCP, and a connection that asks for it by its name."""

    source = "struct_ops"

    @staticmethod
    def programs(_program: str) -> tuple[str, ...]:
        """Name no program, so that all are loaded: the two maps share most of them."""
        return ()

    def of_other_type(self) -> Program | Map:
        """Return a map that holds no functions."""
        return next(one for one in self.object.maps.values() if one.is_internal)

    @cached_property
    def first(self) -> Map:
        """The map that the suite attaches."""
        return self.object.map("congestion")

    @cached_property
    def second(self) -> Map:
        """The map that it updates to."""
        return self.object.map("congestion_alt")

    @property
    def prog_id(self) -> int:
        """0, since a link of this type has a map."""
        return 0

    def trigger(self) -> None:
        """Connect, and choose the congestion control if it is registered."""
        with (
            socket.create_server((LOCAL, 0)) as server,
            socket.create_connection(server.getsockname()) as connection,
            contextlib.suppress(FileNotFoundError),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bpflink")
