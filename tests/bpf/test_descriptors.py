"""BPF objects that other processes have open, found by duplicating descriptors or by fdinfo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.introspection import descriptors
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Link, Map, Object, Program

_EGRESS = ROOT / "selftests/progs/cgroup_egress.bpf.c"

# A seccomp filter that refuses pidfd_getfd(2) as containers do, and allows everything else.
_REFUSE = """
import ctypes, struct
instructions = ((0x20, 0, 0, 0), (0x15, 0, 1, 438), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in instructions))
filter = struct.pack("@HP", len(instructions), ctypes.addressof(code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filter) == 0  # PR_SET_SECCOMP
"""
_LOOK = """
import json
from pytest_bpflink.introspection.descriptors import held_by
print(json.dumps([[*key, fd] for key, fd in held_by(PID)]))
"""


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object(_EGRESS)


@pytest.fixture
def program(loaded: Object) -> Program:
    return loaded.program("egress")


@pytest.fixture
def counters(loaded: Object) -> Map:
    return next(iter(loaded.maps.values()))


@pytest.fixture
def link(program: Program, bpf_link: Callable[..., Link], cgroup: Cgroup) -> Link:
    return bpf_link(program, cgroup)


@pytest.fixture
def holder(link: Link, program: Program, counters: Map) -> Iterator[int]:
    """A process that has a link, a program and a map open, and a pipe."""
    fds = (link.fd, program.fd, counters.fd)
    with subprocess.Popen(["sleep", "60"], pass_fds=fds, stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_another_process(holder: int, link: Link, program: Program, counters: Map) -> None:
    before = os.listdir("/proc/self/fd")

    held = dict(descriptors.held_by(holder))

    assert held == {
        ("link", link.id): link.fd,
        ("program", program.id): program.fd,
        ("map", counters.id): counters.fd,
    }
    assert os.listdir("/proc/self/fd") == before
    assert list(descriptors.held_by(holder, {"map"})) == [(("map", counters.id), counters.fd)]
    own = dict(descriptors.held_by(os.getpid(), {"link", "map"}))
    assert own.keys() >= {("link", link.id), ("map", counters.id)}
    assert {kind for kind, _ in own} == {"link", "map"}


def test_process_that_is_gone() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert list(descriptors.held_by(process.pid)) == []


def test_where_duplicating_is_refused(holder: int, link: Link) -> None:
    """Fdinfo says the same; it is not read for links on kernels where that may crash."""
    look = _LOOK.replace("PID", str(holder))
    told = json.loads(subprocess.check_output([sys.executable, "-c", _REFUSE + look]))

    expected = [[*key, fd] for key, fd in descriptors.held_by(holder)]
    if b" bpf_kprobe_multi_show_fdinfo" in Path("/proc/kallsyms").read_bytes():
        expected.remove(["link", link.id, link.fd])
    assert told == expected


def test_map_where_duplicating_is_refused(counters: Map) -> None:
    """Fdinfo has the type of a map, and not its name. This process's own map is read as ever."""
    look = f"""
from pytest_bpflink import Map, Object
from pytest_bpflink.introspection.entries import entries_of
(counters, *_) = Object.open({str(_EGRESS)!r}).load().maps.values()
for entry in entries_of([("map", {counters.id}), ("map", counters.id)]):
    print(entry.type.name, entry.name)
"""
    told = subprocess.check_output([sys.executable, "-c", _REFUSE + look], text=True)

    assert told == f"ARRAY \nARRAY {counters.name[:15]}\n"


def test_refusal_is_seen() -> None:
    """The filter of the test above does refuse to duplicate."""
    duplicate = (
        "from pytest_bpflink.introspection.descriptors import duplicated\n"
        "with duplicated(os.getpid(), 0): pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{_REFUSE}\nimport os\n{duplicate}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError: [Errno 1]" in done.stderr
