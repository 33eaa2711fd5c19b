"""Tests and conftest files that harm the process of their worker: it is told, and others run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fake_guests import booted

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]


# A process that is not as it was


def test_a_test_that_leaves_its_process_changed_is_told_and_the_others_get_a_fresh_guest(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import os

        def test_users(): os.setresuid(65534, 65534, 65534)
        def test_groups(): os.setresgid(65534, 65534, 65534)
        def test_root(tmp_path): os.chroot(tmp_path)
        def test_input(): os.close(0)
        def test_well():
            assert os.getresuid() == os.getresgid() == (0, 0, 0)
            assert os.path.exists(__file__)
            os.fstat(0)
        """
    )

    result = with_fakes("--kernel", "good", "-rP")

    result.assert_outcomes(passed=5)
    end = "; the next tests get a fresh guest"
    ids = "0/0/0 became 65534/65534/65534"
    changes = {
        "users": f"user ids: {ids}",
        "groups": f"group ids: {ids}",
        "root": "root directory: inode * of device * became inode * of device *",
        "input": "descriptor 0: inode * of device * became none",
    }
    for name, change in changes.items():
        what = f"left its process changed: {change}"
        result.stdout.fnmatch_lines([f"good: test_it.py::test_{name}[[]good] {what}{end}"])
        result.stdout.fnmatch_lines(["*- Process after teardown -*", f"This test {what}"])
    assert booted(pytester.path) == ["good"] * 5


def test_what_can_be_put_back_is_put_back(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(
        test_it="""
        import os, resource, sys

        before = os.getcwd(), resource.getrlimit(resource.RLIMIT_NOFILE), sys.getrecursionlimit()

        def test_directory(tmp_path): os.chdir(tmp_path)
        def test_limit(): resource.setrlimit(resource.RLIMIT_NOFILE, (99, before[1][1]))
        def test_recursion(): sys.setrecursionlimit(60)
        def test_well():
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            assert (os.getcwd(), limit, sys.getrecursionlimit()) == before
        """
    )

    result = with_fakes("--kernel", "good", "-rP")

    result.assert_outcomes(passed=4)
    result.stdout.re_match_lines_random(
        [
            r"This test left its process changed: working directory: \S+ became \S+_good_0",
            r"This test left its process changed: RLIMIT_NOFILE: \d+/(\d+) became 99/\1",
            r"This test left its process changed: recursion limit: 1000 became 60",
        ]
    )
    assert booted(pytester.path) == ["good"]


def test_wider_fixtures_may_change_the_process(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(
        """
        import os, pytest, resource

        @pytest.fixture(scope="session", autouse=True)
        def limit():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        class TestInDirectory:
            @pytest.fixture(scope="class", autouse=True)
            @classmethod
            def directory(cls, tmp_path_factory):
                before = os.getcwd()
                os.chdir(tmp_path_factory.mktemp("in"))
                yield
                os.chdir(before)

            def test_x(self): assert os.path.basename(os.getcwd()) == "in0"
            def test_y(self): assert os.path.basename(os.getcwd()) == "in0"

        def test_z(): assert os.path.basename(os.getcwd()) != "in0"
        """
    )

    result = with_fakes("--kernel", "good", "-rP")

    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*Process*")
    assert booted(pytester.path) == ["good"]


# Children that return


@pytest.mark.parametrize("end", ["pass", "sys.exit(0)", "pytest.exit('enough')", "1 / 0"])
def test_a_child_that_returns_to_pytest_is_ended_and_told(
    pytester: pytest.Pytester, with_fakes: Run, end: str
) -> None:
    pytester.makepyfile(
        test_it=f"""
        import os, pytest, sys

        def test_forks():
            if child := os.fork():
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
            else:
                {end}

        def test_well(): pass
        """
    )

    result = with_fakes("--kernel", "good", "-rP")

    result.assert_outcomes(passed=2)
    told = "A child that * forked returned to pytest: it was ended with status 1."
    result.stdout.fnmatch_lines(["*- Process after teardown -*", told], consecutive=True)


def test_a_hang_is_that_of_the_test_whose_child_returned(
    pytester: pytest.Pytester, with_fakes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GUEST_LIMITS", "answer=0.5")
    pytester.makepyfile(
        test_it="""
        import os, time

        def test_forks():
            if os.fork():
                time.sleep(60)

        def test_well(): pass
        """
    )

    result = with_fakes("--kernel", "good", "--kernel-timeout", "0.4")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["It was killed * after it began: test_it.py::test_forks?good? *"])


# Conftest files and hooks that fail on one kernel

FAILURES = {
    "top": "raise RuntimeError('no')",
    "top-exit": "pytest.exit('no')",
    "top-status": "os._exit(3)",
    "below": "raise RuntimeError('no')",
    "below-exit": "pytest.exit('no')",
    "below-system-exit": "sys.exit('no')",
    "pytest_configure": "raise RuntimeError('no')",
    "pytest_sessionstart": "raise RuntimeError('no')",
    "pytest_sessionstart-exit": "pytest.exit('no')",
    "pytest_collection_modifyitems": "raise RuntimeError('no')",
}


@pytest.mark.parametrize("place", FAILURES)
def test_a_conftest_file_that_fails_on_one_kernel_is_that_kernels_error(
    pytester: pytest.Pytester, with_fakes: Run, place: str
) -> None:
    where = place.partition("-")[0]
    fails = f"if 'FAKE_GUEST_CONSOLE' in os.environ: {FAILURES[place]}\n"
    hook = f"def {where}():\n    {fails}" if where.startswith("pytest_") else fails
    directory = pytester.mkdir("sub") if where == "below" else pytester.path
    (directory / "conftest.py").write_text(f"import os, pytest, sys\n{hook}")
    test = pytester.mkpydir("tests") if where != "below" else directory
    (test / "test_it.py").write_text("def test_x(): pass\ndef test_y(): pass\n")

    result = with_fakes("--kernel", "good,native", "-rE", "--max-worker-restart=1")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] == 2
    assert outcomes.keys() <= {"passed", "errors", "error"}
    if where != "top-status":
        result.stdout.fnmatch_lines(["*no*"])


def test_a_conftest_file_that_fails_in_each_worker_ends_the_run(
    pytester: pytest.Pytester, with_fakes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # this session's own
    pytester.makeconftest(
        "import os\nif 'PYTEST_XDIST_WORKER' in os.environ: raise RuntimeError('never')"
    )
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", "good,native", "--max-worker-restart=1")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.fnmatch_lines(["*good: *", "*RuntimeError: never*"])


def test_a_hook_that_raises_while_a_test_runs_is_that_tests_failure(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeconftest(
        """
        import os

        def pytest_runtest_logreport(report):
            if "FAKE_GUEST_CONSOLE" in os.environ and "test_x" in report.nodeid:
                raise RuntimeError("in a hook")
        """
    )
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass")

    result = with_fakes("--kernel", "good,native")

    result.assert_outcomes(passed=3, failed=1)
    result.stdout.no_fnmatch_line("INTERNALERROR*")
    result.stdout.fnmatch_lines(
        ["kernel good: the worker was ended by an error of its pytest in the call of this test; *"]
    )
    result.stdout.fnmatch_lines(["*RuntimeError: in a hook"])
