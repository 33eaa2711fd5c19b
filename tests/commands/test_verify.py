"""`bpflink verify` says on which kernels programs verify, and what that costs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.features.privileges import missing_privileges
from tests.support import ROOT
from tests.support.command import bpflink

if TYPE_CHECKING:
    from pathlib import Path

PROGS = ROOT / "tests/bpf/progs"

pytestmark = pytest.mark.skipif(bool(missing_privileges()), reason="needs root")

Rows = list[dict[str, Any]]


def verify(*arguments: object, status: int = 0) -> Rows:
    done = bpflink("verify", "--json", *map(str, arguments))
    assert done.returncode == status, done.stderr
    rows: Rows = json.loads(done.stdout)
    return rows


@pytest.fixture(scope="module")
def refused() -> Rows:
    return verify(PROGS / "refused.bpf.c", status=1)


def test_costs_of_each_program() -> None:
    rows = verify(PROGS / "costs.bpf.c")
    assert [(row["program"], row["kernel"], row["verifies"]) for row in rows] == [
        ("turn", "native", True),
        ("count", "native", True),
    ]
    turn, count = rows
    assert turn["stack"] >= 96 > count["stack"] > 0
    assert turn["instructions"] > count["instructions"] > 5
    assert turn["size"] > count["size"] > 20
    assert count["microseconds"] > 0


def test_table() -> None:
    lines = bpflink("verify", str(PROGS / "costs.bpf.c")).stdout.splitlines()
    head, _, turn, count = (line.split() for line in lines)
    assert head[:4] == ["program", "kernel", "verifies", "instructions"]
    assert turn[:3] == ["turn", "native", "yes"]
    assert count[:3] == ["count", "native", "yes"]
    assert len(head) == len(turn) == len(count) == 7


def test_several_kernels() -> None:
    """Programs that are system calls came with 5.14."""
    rows = verify(PROGS / "runs_later.bpf.c", "--kernel", "native,5.10", "--kernel=7.2", status=1)
    assert {(row["program"], row["kernel"]): row["verifies"] for row in rows} == {
        ("add", "native"): True,
        ("add", "5.10"): False,
        ("add", "7.2"): True,
        ("lookup", "native"): True,
        ("lookup", "5.10"): True,
        ("lookup", "7.2"): True,
    }
    assert [row["release"][:4] for row in rows[:3]][1:] == ["5.10", "7.2."]


def test_refused_program_has_its_log(refused: Rows) -> None:
    [row] = refused
    assert (row["program"], row["verifies"], row["error"]) == ("unchecked", False, "EACCES")
    assert any("invalid mem access" in line for line in row["log"])


def test_end_of_the_log_is_shown() -> None:
    done = bpflink("verify", str(PROGS / "refused.bpf.c"))
    assert done.returncode == 1
    assert "no: EACCES" in done.stdout
    assert "unchecked on native (Linux " in done.stdout
    assert "R0 invalid mem access 'map_value_or_null'" in done.stdout


def test_object_that_is_compiled_already(tmp_path: Path) -> None:
    from pytest_bpflink.building.compilation import object_of

    shutil.copyfile(object_of(PROGS / "costs.bpf.c"), tmp_path / "costs.bpf.o")
    assert len(verify(tmp_path / "costs.bpf.o")) == 2


def changed(rows: Rows, file: Path, **values: object) -> Path:
    file.write_text(json.dumps([row | values for row in rows]))
    return file


def test_nothing_grew(tmp_path: Path) -> None:
    base = changed(verify(PROGS / "costs.bpf.c"), tmp_path / "base.json", microseconds=0)
    verify(PROGS / "costs.bpf.c", "--compare", base)


@pytest.mark.parametrize("cost", ["instructions", "stack", "size"])
def test_what_grew_fails(tmp_path: Path, cost: str) -> None:
    before = verify(PROGS / "costs.bpf.c")
    base = changed(before[1:], tmp_path / "base.json", **{cost: before[1][cost] - 1})
    done = bpflink("verify", str(PROGS / "costs.bpf.c"), "--compare", str(base))
    assert done.returncode == 1
    told = f"bpflink: count on native: {before[1][cost]} "
    assert [line for line in done.stderr.splitlines() if line.startswith(told)]
    assert "turn on native" not in done.stderr


def test_what_no_longer_verifies_fails(tmp_path: Path, refused: Rows) -> None:
    base = changed(refused, tmp_path / "base.json", verifies=True)
    done = bpflink("verify", str(PROGS / "refused.bpf.c"), "--compare", str(base))
    assert done.returncode == 1
    assert "bpflink: unchecked on native: no longer verifies" in done.stderr


def test_what_was_refused_may_stay_so(tmp_path: Path, refused: Rows) -> None:
    base = changed(refused, tmp_path / "base.json")
    verify(PROGS / "refused.bpf.c", "--compare", base)


@pytest.mark.parametrize("text", ["no JSON", '{"a": 1}', '[{"kernel": 1}]'])
def test_base_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "base.json").write_text(text)
    done = bpflink("verify", str(PROGS / "costs.bpf.c"), "--compare", str(tmp_path / "base.json"))
    assert done.returncode == 1
    assert "base.json is no output of 'bpflink verify --json'" in done.stderr


def test_file_that_there_is_not() -> None:
    done = bpflink("verify", "absent.bpf.c")
    assert done.returncode == 1
    assert "absent.bpf.c: ENOENT" in done.stderr


def test_kernel_that_there_is_not() -> None:
    """The others are shown all the same."""
    done = bpflink("verify", str(PROGS / "costs.bpf.c"), "--kernel", "native,./absent", "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout)) == 2
    assert "./absent: nothing was verified:" in done.stderr
