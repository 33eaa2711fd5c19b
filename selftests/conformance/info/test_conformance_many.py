"""Links to many places: the program runs at each, with the place's cookie, until the link ends."""

from __future__ import annotations

import ctypes
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.selftests.conformance.event_stages import file_offset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import Link, Object
    from pytest_bpflink.selftests.conformance.programs import Programs

pytestmark = pytest.mark.guest_only

_TRIES = 5  # on 7.2 a program was seen to miss a call while a child process started
_COOKIES = (5, 3, 6)  # in neither order

_CALLS: dict[str, Callable[[], object]] = {
    "security_task_getpgid": lambda: os.getpgid(os.getpid()),
    "security_task_getsid": lambda: os.getsid(os.getpid()),
    "security_task_getscheduler": lambda: os.sched_getscheduler(os.getpid()),
}


class Many:
    """A program for many places, and three places: functions of the kernel, or of a library."""

    def __init__(self, loaded: Object, program: str, library: Path, **options: Any) -> None:
        self._object = loaded
        self._program = loaded.program(program)
        self._options = options
        self._library = library if program == "many_uprobes" else None
        self.calls = list(_CALLS.values())
        if self._library:
            functions = ctypes.CDLL(str(library))
            self._functions = [functions.labs, functions.abs, functions.ffs]
            self.calls = [partial(one, -1) for one in self._functions]

    def attach(self, *places: int, cookies: tuple[int, ...]) -> Link:
        """Attach one link to some of the places."""
        if self._library:
            offsets = [file_offset(self._functions[one], self._library) for one in places]
            options = {"offsets": offsets, "cookies": cookies, **self._options}
            return self._program.attach(self._library, **options)
        names = [list(_CALLS)[one] for one in places]
        return self._program.attach(names, cookies=cookies, **self._options)

    def seen(self, place: int) -> set[int]:
        """Call the function at a place, and return the cookies that the program saw."""
        before = list(self._object.bss["calls_of_cookie"])
        for _ in range(_TRIES):
            self.calls[place]()
        after = self._object.bss["calls_of_cookie"]
        return {cookie for cookie, calls in enumerate(after) if calls != before[cookie]}


def _case(name: str, feature: str, since: str, program: str, **options: Any) -> Any:
    libbpf = options.pop("libbpf", "1.0")
    needs = pytest.mark.bpf_requires(f"link:{feature}", since=since, libbpf=libbpf)
    return pytest.param((program, options), id=name, marks=needs)


_RETPROBE = {"retprobe": True}


@pytest.fixture(
    params=[
        _case("kprobes", "kprobe_multi", "5.18", "many_kprobes"),
        _case("kretprobes", "kprobe_multi", "5.18", "many_kprobes", **_RETPROBE),
        _case("uprobes", "uprobe_multi", "6.6", "many_uprobes", libbpf="1.3"),
        _case("uretprobes", "uprobe_multi", "6.6", "many_uprobes", libbpf="1.3", **_RETPROBE),
        _case("fentry", "tracing_multi", "7.2", "many_fentry", libbpf="1.8"),
        _case("fexit", "tracing_multi", "7.2", "many_fexit", libbpf="1.8"),
        _case("fsession", "tracing_multi", "7.2", "many_fsession", libbpf="1.8"),
    ]
)
def many(request: pytest.FixtureRequest, programs: Programs, libc_copy: Path) -> Iterator[Many]:
    """A program for many places, loaded for this test."""
    program, options = request.param
    with programs.load(request, "many", program) as loaded:
        yield Many(loaded, program, libc_copy, **options)


def test_each_place(many: Many) -> None:
    """The program runs at each place that was asked for, with its cookie, and then at none."""
    with many.attach(0, 1, 2, cookies=_COOKIES):
        assert [many.seen(place) for place in range(3)] == [{cookie} for cookie in _COOKIES]
    assert [many.seen(place) for place in range(3)] == [set()] * 3

    with many.attach(2, 0, cookies=(7, 2)):
        assert [many.seen(place) for place in range(3)] == [{2}, set(), {7}]
    assert [many.seen(place) for place in range(3)] == [set()] * 3
