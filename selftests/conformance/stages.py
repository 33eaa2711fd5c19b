"""What each kind of link is attached to, what makes its program run, and what ends its target.

A stage holds a target of a link type: a cgroup that the process has entered, a device, an event.
`trigger()` does what the hooked program sees, from the test's own thread. Here are what all stages
share and those of cgroups, iterators and struct_ops; events and networks have files of their own.
"""

from __future__ import annotations

import contextlib
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pytest_bpflink import BpfError, Link, Map, Program, libbpf

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
    """A target, two programs for it that count apart, and another program of another type."""

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
        """Name what is loaded: a program and the one that it is updated to."""
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
        """Go on with an object of this test's own, which it may close."""
        self.object = self._undo.enter_context(self.load_anew(*self._wanted))
        for name in ("first", "second", "target"):
            if isinstance(self.__dict__.get(name), Program | Map):
                del self.__dict__[name]
        return self.object

    def twin(self) -> Stage:
        """Return another stage, for the same programs with another target."""
        row: _Row = self.request.getfixturevalue("row")
        return row.make_stage(self.request)

    def place(self, name: str, make: Callable[[contextlib.ExitStack], _Place]) -> _Place:
        """Make something for all tests that ask for its name, or for one that asks for its own."""
        if "own_target" in self.request.fixturenames:
            return make(self._undo)
        places: dict[str, Any] = self.request.getfixturevalue("places")
        if name not in places:
            places[name] = make(places["undo"])
        made: _Place = places[name]
        return made

    def make_cgroup(self, undo: contextlib.ExitStack) -> Cgroup:
        """Make a cgroup, which is removed when undone; whoever is in it must have left."""
        cgroup: Cgroup = self.request.getfixturevalue("cgroup_factory")()

        def remove() -> None:
            if cgroup.path.exists():
                cgroup.remove()
            cgroup.close()

        undo.callback(remove)
        return cgroup

    def of_other_type(self) -> Program | Map:
        """Return a program that nothing of this stage's type takes."""
        return self.load("cgroup", "on_egress", "on_egress_alt").program("on_egress")

    @cached_property
    def first(self) -> Program | Map:
        """What the suite attaches."""
        return self.object.program(self.name)

    @cached_property
    def second(self) -> Program | Map:
        """What it updates to."""
        return self.object.program(f"{self.name}_alt")

    @property
    def prog_id(self) -> int:
        """What a link of the first has in its info."""
        return self.first.id

    @cached_property
    def target(self) -> object | None:
        """What it attaches to; None where the section says it."""
        return None

    def attach(self, program: Program | Map | None = None) -> Link:
        """Attach the first program, or another."""
        given = {} if self.target is None else {"target": self.target}
        link: Link = self.request.getfixturevalue("bpf_link")(
            program or self.first, **given, **self.options
        )
        return link

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
        """Let the target go away while a link to it is held."""
        raise NotImplementedError

    def counts(self) -> tuple[int, int]:
        """How often each of the two has run."""
        bss = self.object.bss
        return bss[f"{self.name}_calls"], bss[f"{self.name}_alt_calls"]


class InCgroup(Stage):
    """A cgroup that the process is in. `action` is what the hook sees."""

    source = "cgroup"

    def __init__(
        self, request: pytest.FixtureRequest, program: str, action: Callable[[], None]
    ) -> None:
        super().__init__(request, program)
        self._action = action
        self._inside = contextlib.ExitStack()
        self._inside.enter_context(self.target.entered())
        self._undo.callback(self._inside.close)

    @cached_property
    def target(self) -> Cgroup:
        """A cgroup for these programs: making one takes longer than to attach."""
        return self.place(f"cgroup {self.name}", self.make_cgroup)

    def of_other_type(self) -> Program | Map:
        """Return a program for devices."""
        return self.load("net", "on_xdp", "on_xdp_alt").program("on_xdp")

    def trigger(self) -> None:
        """Do what the hook sees."""
        self._action()

    def end_target(self) -> None:
        """Leave the cgroup and remove it."""
        self._inside.close()
        self.target.close()
        self.target.path.rmdir()


class Iterator(Stage):
    """An iterator, which runs when somebody reads a file made from the link."""

    source = "iter"

    def __init__(self, request: pytest.FixtureRequest, program: str, **options: Any) -> None:
        super().__init__(request, program, **options)
        self._ids: list[int] = []

    def attach(self, program: Program | Map | None = None) -> Link:
        """Attach, and remember which link to read through."""
        link = super().attach(program)
        self._ids.append(link.id)
        return link

    def trigger(self) -> None:
        """Read through each link, by its id, that is still there."""
        for link_id in self._ids:
            try:
                link = Link.by_id(link_id)
            except BpfError:
                continue
            with link:
                fd = libbpf.call("bpf_iter_create", link.fd, doing="make an iterator")
            with open(fd, "rb") as file:
                file.read()


class MapIterator(Iterator):
    """An iterator over the elements of a map."""

    @cached_property
    def target(self) -> object:
        """An array of two."""
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
        """A cgroup for these programs."""
        return self.place(f"cgroup {self.name}", self.make_cgroup)


class Congestion(Stage):
    """A congestion control for TCP, and a connection that asks for it by its name."""

    source = "struct_ops"

    @staticmethod
    def programs(_program: str) -> tuple[str, ...]:
        """Name none, so that all are loaded: the two maps share most."""
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
        """A link of this type has none."""
        return 0

    def trigger(self) -> None:
        """Connect, and choose the congestion control, if it is there."""
        with (
            socket.create_server((LOCAL, 0)) as server,
            socket.create_connection(server.getsockname()) as connection,
            contextlib.suppress(FileNotFoundError),
        ):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bpflink")
