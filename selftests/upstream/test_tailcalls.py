"""The kernel's `tailcalls`: links beside arrays of programs.

Ported from tools/testing/selftests/bpf/prog_tests/tailcalls.c (Linux 5.5; with freplace since
6.13), as far as links go, with the names of its subtests.

Beyond upstream, while the array changes a link is updated, too, and each packet is seen to run one
program of the link and one of the array.

Left out: how deep programs call each other, and on which stack, which is no matter of links.
"""

from __future__ import annotations

import errno
import itertools
import struct
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Map, MapType, Program
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE
from pytest_bpflink.selftests.conformance.event_stages import Replacement
from pytest_bpflink.selftests.support.absence import made_or_absent
from pytest_bpflink.selftests.support.witness import datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Link, Object

pytestmark = pytest.mark.guest_only

_PACKETS, _CHANGES = 50, 20  # at least


def test_tailcall_poke(
    cgroup: Cgroup, bpf_object: Callable[..., Object], bpf_link: Callable[..., Link]
) -> None:
    """While link and array change, each packet runs one program of each, and none is missed."""
    loaded = bpf_object("progs/tailcalls.bpf.c")
    pairs = [(loaded.program(f"entry_{one}"), loaded.program(f"callee_{one}")) for one in (1, 2)]
    called = loaded.map("called")
    called[0] = pairs[0][1]
    link = bpf_link(pairs[0][0], cgroup)
    packets, changes, done = 0, 0, threading.Event()

    def change() -> None:
        nonlocal changes
        for entry, callee in itertools.cycle(pairs[::-1]):
            if done.is_set():
                return
            link.update(entry)
            called[0] = callee
            changes += 1

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with cgroup.entered(), datagram_socket() as sender:
            while (packets < _PACKETS or changes < _CHANGES) and changing.is_alive():
                sender.sendto(b"bpflink", ("127.0.0.1", 9))
                packets += 1
                time.sleep(0.001)  # lets the other thread change, which waits for grace periods
    finally:
        done.set()
        changing.join()
    seen = loaded.bss
    assert changes >= _CHANGES
    assert sum(seen["entries"]) == sum(seen["callees"]) == packets
    assert seen["missed"] == 0
    assert min(*seen["entries"], *seen["callees"]) > 0


# Replaced functions (freplace): a program in an array must not have its functions replaced, since a
# replacement that calls the array would call itself for ever (6.13, d6083f040d5d).


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Replacement:
    return Replacement(request, "on_freplace", function="step")


@pytest.fixture
def array() -> Iterator[Map]:
    kind = MapType.PROG_ARRAY
    with Map.create(kind, key_size=4, value_size=4, max_entries=1, name="array") as made:
        yield made


@pytest.fixture
def target(stage: Replacement) -> Program:
    found = stage.target
    assert isinstance(found, Program)
    return found


_REQUIRES = pytest.mark.bpf_requires("prog:ext", since="5.6")


@_REQUIRES
def test_tailcall_freplace(stage: Replacement, array: Map) -> None:
    """A replacement is no program for an array, attached or not: EINVAL."""
    put = partial(_put, array, stage.object.program("on_freplace"))
    made_or_absent(
        stage.request.config, "refusal of freplace in arrays", partial(_refused, put), since="6.13"
    )
    with stage.attach():
        assert stage.ran() == FIRST
        assert _errno(put) == errno.EINVAL
    assert stage.ran() == NONE


@_REQUIRES
def test_tailcall_bpf2bpf_freplace(stage: Replacement, array: Map, target: Program) -> None:
    """A program is in an array or has a function replaced: the later of the two is EBUSY."""
    put, attach = partial(_put, array, target), stage.attach
    attach().destroy()
    put()
    made_or_absent(
        stage.request.config, "refusal of freplace", partial(_refused, attach), since="6.13"
    )
    assert _errno(attach) == errno.EBUSY
    assert stage.ran() == NONE

    _clear(array)
    with attach():
        assert _errno(put) == errno.EBUSY
        assert stage.ran() == FIRST
    put()
    assert stage.ran() == NONE


def _put(array: Map, program: Program) -> None:
    array[bytes(4)] = struct.pack("=I", program.fd)


def _clear(array: Map) -> None:
    del array[bytes(4)]


def _errno(ask: Callable[[], object]) -> int:
    with pytest.raises(BpfError) as refused:
        ask()
    return refused.value.errno or 0


def _refused(ask: Callable[[], object]) -> None:
    """Raise `BpfError` if something is not refused."""
    try:
        ask()
    except BpfError:
        return
    raise BpfError(errno.EOPNOTSUPP, "refuse what would call itself")
