"""Tests that leave the process of a session without workers other than it was."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

DROPS = "test_it.py::test_drops had dropped root before"


@pytest.fixture
def public_directory(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work where others than root may come: pytest returns there at its end."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setattr(pytester, "_path", Path(directory))
        monkeypatch.chdir(directory)
        yield


@pytest.mark.usefixtures("public_directory")
def test_the_tests_after_one_that_dropped_root_say_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os
        import pytest

        def test_first(cgroup): pass

        def test_drops(): os.setuid(65534)

        def test_makes_nothing(cgroup): pass

        @pytest.mark.bpf_requires("link:tcx")
        def test_requires(): pass

        def test_needs_root(netns): pass

        def test_fails(): assert False

        def test_well(): pass
        """
    )

    result = pytester.runpytest_subprocess("-rsEP", "-v", timeout=60)

    lines = result.stdout
    lines.fnmatch_lines(["*::test_first PASSED*", "*::test_drops PASSED*", "*::test_well PASSED*"])
    lines.fnmatch_lines([f"SKIPPED * needs CAP_NET_ADMIN, *({DROPS})"])
    lines.fnmatch_lines(
        ["*ERROR at setup of test_needs_root*", "*- Process -*", f"{DROPS}.", "*_ test_fails _*"]
    )
    lines.fnmatch_lines(["*_ test_fails _*", "*- Process -*", f"{DROPS}."])
    changed = "This test left its process changed: user ids: 0/0/0 became 65534/65534/65534"
    lines.fnmatch_lines(["*- Process after teardown -*", changed])
    dropped = "test_it.py::test_drops dropped root for good, so leaks are not looked for"
    lines.fnmatch_lines([f"bpflink: {dropped}"])
    # The tests after it are set up and torn down.
    lines.no_fnmatch_line("*previous item was not torn down*")


def test_a_child_that_returns_runs_no_other_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os

        def test_forks(cgroup):
            if child := os.fork():
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

        def test_well():
            with open("ran", "a") as file: file.write("x")
        """
    )

    result = pytester.runpytest_subprocess("-rP", timeout=60)

    result.assert_outcomes(passed=2)
    assert (pytester.path / "ran").read_text() == "x"
    told = (
        "A child that test_it.py::test_forks forked returned to pytest: it was ended with status 1."
    )
    result.stdout.fnmatch_lines([told])


def test_a_process_that_is_changed_natively_is_told_and_left(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os

        def test_goes(cgroup): os.chdir("/")

        def test_is_there(): assert os.getcwd() == "/"
        """
    )

    result = pytester.runpytest_subprocess("-rP", timeout=60)

    result.assert_outcomes(passed=2)
    told = f"This test left its process changed: working directory: {pytester.path} became /"
    result.stdout.fnmatch_lines([told])
    assert result.stdout.str().count("left its process changed") == 1
