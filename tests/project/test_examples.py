"""The examples work with the installed project, and their tests catch the faults they name."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.features.privileges import missing_privileges
from tests.support import ROOT
from tests.support.installed import run_pytest

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = ROOT / "examples/egress-counter"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """Copy the example to a directory outside the checkout."""
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)
    return shutil.copytree(
        SOURCES, tmp_path / "project", ignore=shutil.ignore_patterns("build", "__pycache__")
    )


def make(example: Path, *variables: str) -> None:
    done = subprocess.run(
        ["make", "-C", example, *variables],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "warning:" not in done.stdout


def test_example(example: Path, fresh_python: Path) -> None:
    make(example)
    done = run_pytest(fresh_python, example)
    assert "= 6 passed, 2 xfailed in" in done.stdout, done.stdout


def test_its_tests_catch_a_program_that_is_orphaned(example: Path, fresh_python: Path) -> None:
    """Also in `egress-counter`, where no test expects the fault."""
    make(example, "CPPFLAGS=-DORPHANS")
    done = run_pytest(fresh_python, example, "-rf")
    failed = {
        line.split("::")[1].partition(" ")[0]
        for line in done.stdout.splitlines()
        if line.startswith("FAILED")
    }
    assert failed == {
        "test_counts_bytes_of_packets_that_are_long_enough",
        "test_restarted_daemon_takes_the_link_over",
        "test_restarted_daemon_counts_each_packet_once[egress-counter]",
        "test_stopped_counter_leaves_no_program_behind[egress-counter]",
    }, done.stdout


def test_its_tests_catch_a_link_that_is_not_pinned(example: Path, fresh_python: Path) -> None:
    source = example / "egress_counter.c"
    pins = "bpf_link__pin(link, link_pin)"
    assert pins in source.read_text()
    source.write_text(source.read_text().replace(pins, "0"))
    make(example)
    done = run_pytest(fresh_python, example, "-rf", "-k", "down")
    assert "assert 0 == 2" in done.stdout, done.stdout


def test_its_tests_say_what_is_missing(example: Path, fresh_python: Path) -> None:
    done = run_pytest(fresh_python, example, "-k", "counts_packets")
    assert "AssertionError: run make first" in done.stdout, done.stdout
