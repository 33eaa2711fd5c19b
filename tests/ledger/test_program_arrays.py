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


def none_is_alive(maps: list[int]) -> bool:
    return not any(ids.is_alive("map", number) for number in maps)


def test_session_leaves_no_program_array(tmp_path: Path) -> None:
    # By hand: 1000 on a machine with two processors, or more.
    count = int(os.environ.get("BPFLINK_TAIL_CALLS", "50"))
    (tmp_path / "test_tail_calls.py").write_text(TESTS.replace("COUNT", str(count)))
    output = run_session(tmp_path, "-W", "error", timeout=600).stdout.str()
    assert f"= {count} passed in " in output
    arrays = [*map(int, (tmp_path / "arrays").read_text().split())]
    assert len(arrays) == count
    eventually(lambda: none_is_alive(arrays))


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
