"""Program arrays end with the programs that use them, whoever watches.

From 6.12 a kernel keeps a program array for good if it is opened by id, and closed, while it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import MapType, Object, ObjectHolder, eventually
from pytest_bpflink.introspection import ids
from pytest_bpflink.introspection.entries import entry_of
from tests.support.sessions import run_session
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink import BpfFs, BpfLedger, Cgroup, Entry

TAIL_CALL = Path(__file__).parent / "progs/tail_call.bpf.c"

TESTS = f"""
import pytest

@pytest.mark.parametrize("number", range(COUNT))
def test_tail_call(bpf_object, number):
    with open("arrays", "a") as arrays:
        print(bpf_object({str(TAIL_CALL)!r}).maps["jumps"].id, file=arrays)
"""

DAEMON = """
import sys
from pytest_bpflink import Object
loaded = Object.open(sys.argv[1]).load()
print(loaded.maps["jumps"].id, flush=True)
sys.stdin.readline()
"""


# Its own guest's: there are no other sessions whose maps it would count.
COUNTED = f"""
import pytest
from pytest_bpflink import eventually
from pytest_bpflink.introspection import ids

def maps():
    return list(ids.alive("map"))

before = []

def test_first():
    before.extend(maps())

@pytest.mark.parametrize("number", range(COUNT))
def test_tail_call(bpf_object, number):
    array = bpf_object({str(TAIL_CALL)!r}).maps["jumps"].id
    assert array in maps()

def test_last():
    eventually(lambda: maps() == before)
"""

# By hand: 1000 on a machine with two processors, or more.
TAIL_CALLS = int(os.environ.get("BPFLINK_TAIL_CALLS", "50"))


def none_is_alive(maps: list[int]) -> bool:
    return not any(ids.is_alive("map", number) for number in maps)


def test_session_leaves_no_program_array(tmp_path: Path) -> None:
    (tmp_path / "test_tail_calls.py").write_text(TESTS.replace("COUNT", str(TAIL_CALLS)))
    output = run_session(tmp_path, "-W", "error", timeout=600).stdout.str()
    assert f"= {TAIL_CALLS} passed in " in output
    arrays = [*map(int, (tmp_path / "arrays").read_text().split())]
    assert len(arrays) == TAIL_CALLS
    eventually(lambda: none_is_alive(arrays))


def test_session_in_a_guest_leaves_no_program_array(tmp_path: Path) -> None:
    """With two processors one clears the array while the session looks on the other."""
    count = max(TAIL_CALLS, 250)  # a kernel in a guest keeps fewer of the arrays
    (tmp_path / "test_tail_calls.py").write_text(COUNTED.replace("COUNT", str(count)))
    guest = ("--kernel", "7.2", "--kernel-cpus", "2")
    run = run_session(tmp_path, "-W", "error", *guest, timeout=600, BPFLINK_CACHE=str(CACHE))
    assert f"= {count + 2} passed in " in run.stdout.str()


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, TAIL_CALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def array_of(daemon: subprocess.Popen[str]) -> int:
    assert daemon.stdout
    return int(daemon.stdout.readline())


@pytest.mark.parametrize("_number", range(10))
def test_daemon_leaves_no_program_array(
    bpf_ledger: BpfLedger, daemon: subprocess.Popen[str], _number: int
) -> None:
    with bpf_ledger.watch() as watch:
        array = array_of(daemon)
        held = bpf_ledger.held_by(daemon.pid)
        (entry,) = (each for each in held if each.kind == "map" and each.id == array)
        assert str(entry) == f"map {array} (PROG_ARRAY jumps)"
        assert entry in bpf_ledger.alive("map")
        assert entry in watch.alive()
    daemon.terminate()
    daemon.wait()
    bpf_ledger.assert_gone(held)
    watch.assert_nothing_left()


def test_map_is_looked_at_through_its_holders(bpffs: BpfFs, cgroup: Cgroup) -> None:
    """A map that only a program holds is seen, but not what it is."""

    def seen() -> Entry | None:
        return entry_of(("map", array))

    with Object.open(TAIL_CALL).load() as loaded:
        array = loaded.maps["jumps"].id
        assert str(seen()) == f"map {array} (PROG_ARRAY jumps)"
        pin = bpffs / "entry"
        link = loaded.program("entry").attach(cgroup)
        link.pin(pin)
        link.destroy()
    entry = seen()
    assert entry is not None
    assert entry.type is MapType.UNSPEC
    assert str(entry) == f"map {array}"
    (program,) = entry.holders()
    assert isinstance(program, ObjectHolder)
    assert program.kind == "program"
    pin.unlink()
    eventually(lambda: seen() is None)
