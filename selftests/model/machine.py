"""The state machine: draws steps, has the oracle and the kernel do each, and compares the two."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pytest_bpflink import eventually
from pytest_bpflink.errors import errno_name
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.model.life import Life
from pytest_bpflink.selftests.model.oracle import FIRST, SECOND, Oracle
from pytest_bpflink.selftests.model.world import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hypothesis.strategies import SearchStrategy

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.model.world import World

_MOST_HOOKS = 3
_SHARED = 7  # of eight lives so many have programs that many lives share: loading takes long
_TRIES = 5  # of programs at system calls, which may miss one: see Syscalls in event_stages
_CGROUP = "egress"


_Option = TypeVar("_Option", str, "tuple[str, str]")
_Rule = TypeVar("_Rule", bound="Callable[..., Any]")


# Drawing a number is many times cheaper than making a strategy of what there is. Up to six options
# are equally likely.
_numbers = st.integers(0, 59)


def _one(options: Callable[[Any], Collection[_Option]]) -> SearchStrategy[_Option]:
    """Draw one of what there is at this moment of a life."""

    def chosen(drawn: tuple[Any, int]) -> _Option:
        machine, number = drawn
        there = sorted(options(machine))
        return there[number % len(there)]

    return st.tuples(st.runner(), _numbers).map(chosen)


def _some(
    options: Callable[[Any], Collection[str]], *, most: int | None = None
) -> SearchStrategy[list[str]]:
    """Draw at least one of what there is, and none twice."""

    def chosen(drawn: tuple[Any, list[int]]) -> list[str]:
        machine, numbers = drawn
        there = sorted(options(machine))
        return list(dict.fromkeys(there[number % len(there)] for number in numbers))

    return st.tuples(st.runner(), st.lists(_numbers, min_size=1, max_size=most)).map(chosen)


_programs = st.sampled_from([FIRST, SECOND])
_hooks = _one(lambda machine: machine.usable_hooks())
_handles = _one(lambda machine: machine.oracle.handles)
_makers = _one(lambda machine: machine.oracle.links)
_places = _one(lambda machine: machine.places)
_pins = _one(lambda machine: machine.pins)
_mounts = _one(lambda machine: machine.oracle.mounts)
_processes = _one(lambda machine: machine.oracle.processes)


def _has(what: Callable[[Any], Any]) -> Callable[[_Rule], _Rule]:
    return precondition(lambda machine: bool(what(machine)))


_has_handle = _has(lambda machine: machine.oracle.handles)
_has_link = _has(lambda machine: machine.oracle.links)
_has_pin = _has(lambda machine: machine.pins)
_has_cgroup = _has(lambda machine: _CGROUP in machine.usable_hooks())


class DifferenceError(AssertionError):
    """The kernel did something else than the oracle says. `life` is the life up to then."""

    def __init__(self, said: str, life: Life) -> None:
        super().__init__(said)
        self.life = life


class LinkLives(RuleBasedStateMachine):
    """The life of some links, as the kernel and the oracle see it."""

    def __init__(self, world: World, rows: dict[str, Row], kernel: KernelInfo) -> None:
        super().__init__()
        self.world, self.rows, self.kernel = world, rows, kernel
        self.oracle = Oracle(kernel, rows)
        self.hooks: list[str] = []
        self.places = {"bpffs"}  # where a BPF FS is or was
        self.pins: set[tuple[str, str]] = set()  # where a link is or was pinned
        self.life = Life(kernel.release)
        self._made = 0
        self.difference: DifferenceError | None = None

    @initialize(
        hooks=_some(lambda machine: machine.rows, most=_MOST_HOOKS),
        own_programs=st.sampled_from([*[False] * _SHARED, True]),
    )
    def begin(self, hooks: list[str], own_programs: bool) -> None:  # noqa: FBT001 - a rule's
        """Choose the hooks of this life."""
        self.hooks = hooks
        self.world.begin()
        given = ", own_programs=True" if own_programs else ""
        for hook in hooks:
            self._do(f'{hook} = world.hook("{self.rows[hook].id}"{given})', OK)

    def usable_hooks(self) -> list[str]:
        """Return the hooks whose target is there."""
        return [hook for hook in self.hooks if hook not in self.oracle.ended]

    # Attaching.

    @_has(lambda machine: machine.usable_hooks())
    @rule(hook=_hooks, program=_programs)
    def attach(self, hook: str, program: str) -> None:
        new = self._new_handle()
        self._step(
            f"{new} = {hook}.attach({hook}.{program})", self.oracle.attach(new, hook, program)
        )

    @_has_cgroup
    @rule(program=_programs)
    def add(self, program: str) -> None:
        self._step(f"{_CGROUP}.add({_CGROUP}.{program})", self.oracle.add(_CGROUP, program))

    @_has_cgroup
    @rule(program=_programs)
    def take(self, program: str) -> None:
        self._step(f"{_CGROUP}.take({_CGROUP}.{program})", self.oracle.take(_CGROUP, program))

    # Holding.

    @_has_handle
    @rule(handle=_handles)
    def destroy(self, handle: str) -> None:
        self._step(f"{handle}.destroy()", self.oracle.destroy(handle))

    @_has_handle
    @rule(handle=_handles)
    def dup(self, handle: str) -> None:
        new = self._new_handle()
        self._step(f"{new} = Link.from_fd({handle}.fd)", self.oracle.dup(new, handle))

    @_has_link
    @rule(maker=_makers)
    def by_id(self, maker: str) -> None:
        new = self._new_handle()
        self._step(f"{new} = Link.by_id({maker}.id)", self.oracle.by_id(new, maker))

    @_has_handle
    @rule(handles=_some(lambda machine: machine.oracle.handles))
    def fork(self, handles: list[str]) -> None:
        new = self._new("child")
        self._step(f"{new} = world.fork({', '.join(handles)})", self.oracle.fork(new, handles))

    @_has(lambda machine: machine.oracle.processes)
    @rule(process=_processes)
    def kill(self, process: str) -> None:
        self._step(f"world.kill({process})", self.oracle.kill(process))

    @_has_handle
    @rule(handle=_handles)
    def send(self, handle: str) -> None:
        self._step(f"world.send({handle})", self.oracle.send(handle))

    @_has(lambda machine: machine.oracle.messages)
    @rule()
    def receive(self) -> None:
        new = self._new_handle()
        self._step(f"{new} = world.receive()", self.oracle.receive(new))

    @_has(lambda machine: machine.oracle.messages)
    @rule()
    def hang_up(self) -> None:
        self._step("world.hang_up()", self.oracle.hang_up())

    # Pins.

    @_has_handle
    @rule(handle=_handles, mount=_places, name=st.sampled_from(NAMES))
    def pin(self, handle: str, mount: str, name: str) -> None:
        self.pins.add((mount, name))
        self._step(f'{handle}.pin(world.{mount} / "{name}")', self.oracle.pin(handle, mount, name))

    @_has_handle
    @rule(handle=_handles)
    def unpin(self, handle: str) -> None:
        self._step(f"{handle}.unpin()", self.oracle.unpin(handle))

    @_has_pin
    @rule(pin=_pins)
    def open(self, pin: tuple[str, str]) -> None:
        new, (mount, name) = self._new_handle(), pin
        self._step(
            f'{new} = Link.open(world.{mount} / "{name}")', self.oracle.open(new, mount, name)
        )

    @_has_pin
    @rule(pin=_pins)
    def unlink(self, pin: tuple[str, str]) -> None:
        mount, name = pin
        self._step(f'(world.{mount} / "{name}").unlink()', self.oracle.unlink(mount, name))

    @_has(lambda machine: machine.oracle.links and [*machine.oracle.mounts] == ["bpffs"])
    @rule()
    def bind(self) -> None:
        self.places.add("elsewhere")
        self.pins |= {("elsewhere", name) for _, name in self.pins}
        self._step("world.bind()", self.oracle.bind())

    @_has(lambda machine: machine.pins and machine.oracle.mounts)
    @rule(mount=_mounts)
    def unmount(self, mount: str) -> None:
        self._step(f"world.unmount(world.{mount})", self.oracle.unmount(mount))

    @_has(lambda machine: "bpffs" not in machine.oracle.mounts)
    @rule()
    def mount(self) -> None:
        self._step("world.mount()", self.oracle.mount())

    # Changing.

    @_has_handle
    @rule(handle=_handles, new=_programs)
    def update(self, handle: str, new: str) -> None:
        hook = self.oracle.handles[handle].link.hook
        self._step(f"{handle}.update({hook}.{new})", self.oracle.update(handle, new))

    @_has_handle
    @rule(handle=_handles, new=_programs, old=_programs)
    def exchange(self, handle: str, new: str, old: str) -> None:
        hook = self.oracle.handles[handle].link.hook
        self._step(
            f"{handle}.update({hook}.{new}, old={hook}.{old})",
            self.oracle.update(handle, new, old),
        )

    @_has_handle
    @rule(handle=_handles)
    def detach(self, handle: str) -> None:
        self._step(f"{handle}.detach()", self.oracle.detach(handle))

    @_has(lambda machine: machine.oracle.links and machine.mortal_hooks())
    @rule(hook=_one(lambda machine: machine.mortal_hooks()))
    def end(self, hook: str) -> None:
        self._step(f"{hook}.end()", self.oracle.end(hook))

    def mortal_hooks(self) -> list[str]:
        """Return the hooks whose target can go while links to it are held."""
        return [hook for hook in self.usable_hooks() if self.rows[hook].target_ends]

    @_has_cgroup
    @_has_link
    @rule()
    def leave_or_enter(self) -> None:
        if _CGROUP in self.oracle.left:
            self._step(f"{_CGROUP}.enter()", self.oracle.enter(_CGROUP))
        else:
            self._step(f"{_CGROUP}.leave()", self.oracle.leave(_CGROUP))

    # Comparing.

    def _step(self, line: str, predicted: int) -> None:
        """Have the kernel do a step, and compare what then can be seen."""
        is_late, self.oracle.is_late = self.oracle.is_late, False
        self._do(line, predicted)
        for expression, expected in self._sights():
            self._compare(expression, expected, is_late=is_late)

    def _do(self, line: str, predicted: int) -> None:
        self.life.add(line, predicted)
        answer = self.world.run(line)
        if answer != predicted:
            self._differ(line, _named(answer), _named(predicted))

    def _sights(self) -> Iterable[tuple[str, str]]:
        """Yield what can be seen, as expressions, and what the oracle says of each."""
        oracle = self.oracle
        ids = ", ".join(f"{maker}.id" for maker in oracle.alive())
        yield "world.alive()", f"{{{ids}}}" if ids else "set()"
        for hook in self.usable_hooks():
            if any(link.hook == hook for link in oracle.links.values()) or hook in oracle.legacy:
                runs = oracle.runs(hook)
                if not self.rows[hook].counts_packets:
                    runs = min(runs[0], 1), min(runs[1], 1)
                yield f"{hook}.runs()", repr(runs)
        for handle, held in oracle.handles.items():
            yield f"{held.link.hook}.info({handle})", repr(oracle.info(handle))

    def _compare(self, expression: str, expected: str, *, is_late: bool) -> None:
        wanted = self.world.value(expected)
        seen = self.world.value(expression)
        if seen == wanted:
            return
        for _ in range(_TRIES):
            if not expression.endswith(".runs()") or self._counts_all(expression):
                break
            seen = self.world.value(expression)
            if seen == wanted:
                return
        if is_late:
            try:
                eventually(lambda: self.world.value(expression) == wanted)
            except AssertionError:
                pass
            else:
                return
        self.life.check(expression, expected, is_late=is_late)
        self._differ(expression, repr(seen), expected)

    def _counts_all(self, expression: str) -> bool:
        return self.rows[expression.partition(".")[0]].counts_packets

    def _differ(self, what: str, seen: str, expected: str) -> None:
        self.difference = DifferenceError(
            f"{what}: the kernel says {seen}, the oracle {expected}", self.life
        )
        raise self.difference

    def teardown(self) -> None:
        """End the life, in which nothing may stay alive."""
        try:
            self.world.end()
        except AssertionError as error:
            if not self.difference:
                self.difference = DifferenceError(str(error), self.life)
                raise self.difference from None

    def _new_handle(self) -> str:
        letters = string.ascii_lowercase
        self._made += 1
        number, letter = divmod(self._made - 1, len(letters))
        return letters[letter] + (str(number) if number else "")

    def _new(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"


def _named(number: int) -> str:
    return errno_name(number) if number != OK else "OK"
