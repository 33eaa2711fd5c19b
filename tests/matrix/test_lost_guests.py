"""Guests that do not boot, die, or can't be replaced: no item is lost, and other guests run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_bpflink import eventually
from tests.support import ROOT
from tests.support.fake_guests import booted
from tests.support.processes import is_running

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]


def outcomes(result: pytest.RunResult) -> dict[str, list[str]]:
    """Return the results that a verbose run printed for each item, by its name without the path."""
    said: dict[str, list[str]] = {}
    for words in (line.split() for line in result.outlines if line.startswith("[")):
        if "::" in words[-1]:
            said.setdefault(words[-1].partition("::")[2], []).append(words[-2])
    return said


TEN = """
    import os, pytest
    from fake_guests import panic

    @pytest.mark.parametrize("n", range(10))
    def test_x(n, request):
        if n in {panics} and "native" not in request.node.name:
            panic(f"in number {{n}}")
"""


# Kernels that do not boot


def test_a_kernel_that_does_not_boot_is_an_error_of_each_of_its_items_only(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics=set()))

    result = with_fakes("-v", "--kernel", "good,unbootable")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=10, errors=10)
    result.stdout.fnmatch_lines(
        ["*ERROR at setup of test_x?0-unbootable?*", "*did not boot*", "No working init found"]
    )
    # A kernel that did not boot does not differ.
    result.stdout.no_fnmatch_line("differs: *")
    # The fake guest's worker leaves its directory, which would be in a real guest.
    left = {each.name for each in pytester.path.joinpath("temporary").iterdir()}
    assert len([name for name in left if not name.startswith("pytest-of-")]) == 1, left


def test_a_kernel_that_cannot_be_used_is_an_error_of_each_of_its_items_only(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics=set()))

    result = with_fakes("--kernel", "good,unknown", "--kernel-workers=2")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=10, errors=10)
    result.stdout.fnmatch_lines(
        [
            "kernel unknown: can't be used: there is no kernel unknown; there are: good",
            "*ERROR at setup of test_x?0-unknown?*",
            "--kernel unknown: there is no kernel unknown; there are: good",
            "unknown * -  * 0 * 10",
        ]
    )
    # No guest was booted for the unknown kernel.
    assert set(booted(pytester.path)) == {"good"}


def test_no_mark_hides_that_a_kernel_does_not_boot(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.xfail
        def test_x(): pass

        @pytest.mark.skip
        def test_y(): pass
        """
    )

    with_fakes("--kernel", "unbootable").assert_outcomes(errors=2)


def test_a_guest_without_a_working_python_is_no_internal_error(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics=set()))

    result = with_fakes("--kernel", "unreachable,good")

    result.assert_outcomes(passed=10, errors=10)
    assert booted(pytester.path).count("unreachable") == 4


# Kernels that die


def test_a_panic_fails_the_running_test_and_a_fresh_guest_takes_the_rest(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics={4}))

    result = with_fakes("-v", "--kernel", "good,native")

    result.assert_outcomes(passed=19, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*___ test_x?4-good? ___*",
            "kernel good: the guest *) died in the call of this test: Kernel panic*in number 4",
            "The end of its console:",
            "Kernel panic - not syncing: in number 4",
        ]
    )
    assert booted(pytester.path) == ["good", "good"]
    # No percentage is above 100.
    result.stdout.re_match_lines_random([r".*\[100%\] PASSED.*"])
    result.stdout.no_re_match_line(r".*\[(10[1-9]|1[1-9]\d|[2-9]\d\d)%\]")


def test_panics_in_several_tests_on_several_kernels_lose_nothing(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics={0, 5, 9}))

    result = with_fakes("-v", "--kernel", "6.1,native,7.2")

    result.assert_outcomes(passed=24, failed=6)
    assert len(outcomes(result)) == 30


def test_a_guest_is_not_booted_for_nothing(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(TEN.format(panics={9}))

    with_fakes("--kernel", "good").assert_outcomes(passed=9, failed=1)

    assert booted(pytester.path) == ["good"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("setup", {"passed": 1, "errors": 1}),
        ("call", {"passed": 1, "failed": 1}),
        # The call passed, and so did the other test.
        ("teardown", {"passed": 2, "errors": 1}),
    ],
)
def test_a_panic_is_reported_in_the_phase_that_it_happened_in(
    pytester: pytest.Pytester,
    with_fakes: Run,
    tmp_path: Path,
    where: str,
    expected: dict[str, int],
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from fake_guests import panic

        @pytest.fixture
        def resource():
            if {where!r} == "setup": panic("here")
            yield
            if {where!r} == "teardown": panic("here")

        def test_x(resource):
            if {where!r} == "call": panic("here")

        def test_y(): pass
        """
    )
    junit = tmp_path / "junit.xml"

    result = with_fakes("--kernel", "good", "--junitxml", junit)

    result.assert_outcomes(**expected)
    result.stdout.fnmatch_lines(
        [f"*died in the {where} of this test: *here", "*", "Kernel panic*here"]
    )
    tags = [element.tag for element in ET.parse(junit).getroot().iter()]  # noqa: S314
    assert ("failure" in tags, "error" in tags) == (where == "call", where != "call")
    suite = ET.parse(junit).getroot()[0]  # noqa: S314
    assert int(suite.attrib["errors"]) + int(suite.attrib["failures"]) == 1


@pytest.mark.parametrize("hook", ["pytest_runtest_logfinish", "pytest_sessionfinish"])
def test_a_death_after_a_test_is_an_error_in_its_teardown(
    pytester: pytest.Pytester, with_fakes: Run, hook: str
) -> None:
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass")
    pytester.makeconftest(
        f"""
        import os, pytest
        from fake_guests import panic

        seen = []

        def die_in(hook):
            # The controller has these hooks too.
            if hook == {hook!r} and "test_y" in str(seen) and "FAKE_GUEST_CONSOLE" in os.environ:
                panic("late")

        @pytest.hookimpl(trylast=True)
        def pytest_runtest_logfinish(nodeid):
            seen.append(nodeid)
            die_in("pytest_runtest_logfinish")

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish():
            die_in("pytest_sessionfinish")
        """
    )

    result = with_fakes("-v", "--kernel", "good")

    result.assert_outcomes(passed=2, errors=1)
    assert outcomes(result)["test_y[good]"] == ["PASSED", "ERROR"]
    result.stdout.fnmatch_lines(["*died after this test: *late", "*", "Kernel panic*late"])


def test_guests_that_keep_dying_are_not_replaced_for_ever(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics=set(range(10))))

    result = with_fakes("--kernel", "native,good")

    result.assert_outcomes(passed=10, failed=4, errors=6)
    assert booted(pytester.path) == ["good"] * 4
    result.stdout.fnmatch_lines(["*lost 4 workers, and gets no more guests.", "*in number 3"])


def test_the_last_item_can_be_run_again_in_a_fresh_guest(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    """As pytest-rerunfailures does; when it asks, its guest has no items left."""
    pytester.makeconftest(
        """
        import pytest

        again = []

        @pytest.hookimpl(trylast=True)
        def pytest_handlecrashitem(crashitem, report, sched):
            if not again:
                again.append(crashitem)
                sched.mark_test_pending(crashitem)
                report.outcome = "rerun"

        def pytest_report_teststatus(report):
            if report.outcome == "rerun":
                return "rerun", "R", "RERUN"
        """
    )
    pytester.makepyfile(
        """
        from pathlib import Path
        from fake_guests import panic

        def test_first(): pass

        def test_last():
            if not Path("once").exists():
                Path("once").touch()
                panic("once")
        """
    )

    result = with_fakes("--kernel", "good")

    result.assert_outcomes(passed=2)
    assert booted(pytester.path) == ["good", "good"]


def test_the_number_of_restarts_is_xdists_option(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics={3}))

    result = with_fakes("--kernel", "good", "--max-worker-restart", "0")

    result.assert_outcomes(passed=3, failed=1, errors=6)
    assert booted(pytester.path) == ["good"]


def test_a_guest_that_does_not_boot_again_leaves_errors(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics={3}))

    result = with_fakes("--kernel", "bootsonce")

    result.assert_outcomes(passed=3, failed=1, errors=6)


def test_a_disk_that_is_full_at_a_restart_leaves_errors(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(TEN.format(panics={3}))

    result = with_fakes("--kernel", "fullsoon,good")

    result.assert_outcomes(passed=12, failed=2, errors=6)
    result.stdout.fnmatch_lines(["*could not be started again: *No space left on device*"])


@pytest.mark.parametrize(
    ("kernel", "outcomes"),
    [
        ("filling", {"passed": 10, "errors": 10}),
        ("fillingsoon", {"passed": 12, "failed": 2, "errors": 6}),
    ],
)
def test_a_disk_that_is_full_before_a_guest_is_ready_is_its_kernels_error(
    pytester: pytest.Pytester, with_fakes: Run, kernel: str, outcomes: dict[str, int]
) -> None:
    panics = {3} if kernel == "fillingsoon" else set()
    pytester.makepyfile(TEN.format(panics=panics))

    result = with_fakes("--kernel", f"{kernel},good")

    result.assert_outcomes(**outcomes)
    release = os.uname().release
    result.stdout.fnmatch_lines(
        [f"kernel {kernel} (Linux {release}) could not be started: *No space left on device: *"]
    )


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        ("noqemu", "QEMU is not installed: apt-get install qemu-system-x86"),
        ("full", "a file of the guest can't be written: *No space left on device: 'launch.sh'"),
    ],
)
@pytest.mark.parametrize("other", ["good", "native"])
def test_a_machine_that_can_not_be_started_is_its_kernels_error(
    pytester: pytest.Pytester, with_fakes: Run, kernel: str, reason: str, other: str
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", f"{kernel},{other}")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"--kernel {kernel}: {reason}"])


def test_a_death_in_collection_is_followed_by_a_fresh_guest(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import os
        from fake_guests import booted, panic

        if os.environ.get("FAKE_GUEST_CONSOLE") and len(booted()) < 3:
            panic("in collection")

        def test_x(): pass
        """
    )

    with_fakes("--kernel", "good,native").assert_outcomes(passed=2)

    assert booted(pytester.path) == ["good"] * 3


def test_deaths_in_every_collection_are_errors(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(
        """
        import os
        from fake_guests import panic

        if os.environ.get("FAKE_GUEST_CONSOLE"):
            panic("in collection")

        def test_x(): pass
        """
    )

    result = with_fakes("--kernel", "good,native")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*lost 4 workers*", "*", "Kernel panic*in collection"])


def test_a_native_worker_that_crashes_is_replaced_too(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import os, pytest

        @pytest.mark.parametrize("n", range(6))
        def test_x(n, request):
            if n == 2 and "native" in request.node.name: os._exit(1)
        """
    )

    result = with_fakes("--kernel", "good,native", "-n2")

    result.assert_outcomes(passed=11, failed=1)
    release = os.uname().release
    result.stdout.fnmatch_lines(
        [
            (
                "kernel native: the worker exited with status 1 in the call of this test;"
                f" the kernel (Linux {release}) is well"
            )
        ]
    )
    result.stdout.no_fnmatch_line("*console*")


def test_a_stand_in_that_dies_is_its_kernels_error(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("import os; os._exit(1)")

    result = with_fakes("--kernel", "unbootable")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["unbootable: kernel unbootable (Linux *) did not boot*", "Not properly terminated"]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_consoles_are_kept(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(TEN.format(panics={3}))

    with_fakes("--kernel", "good", "--kernel-log", "logs/of-kernels")

    logs = sorted((pytester.path / "logs/of-kernels").glob("*.log"))
    assert [log.name for log in logs] == ["good-1.log"]
    assert logs[0].read_text() == "Kernel panic - not syncing: in number 3\n"


# Workers that die in a guest that is well


ENDS = {
    "ctypes.string_at(1)": "was killed by SIGSEGV",
    "os.abort()": "was killed by SIGABRT",
    "os._exit(3)": "exited with status 3",
    "os.kill(os.getpid(), signal.SIGTERM)": "was killed by SIGTERM",
    "os.kill(os.getpid(), signal.SIGRTMIN + 1)": f"was killed by signal {signal.SIGRTMIN + 1}",
    "os.closerange(0, 1024)": "closed its connection to pytest",
    "[os.dup2(0, each) for each in range(3, 64)]": "closed its connection to pytest",
}


def test_a_test_that_ends_its_worker_is_told_so(pytester: pytest.Pytester, with_fakes: Run) -> None:
    source = "import ctypes, os, signal\n"
    for number, statement in enumerate(ENDS):
        source += f"def test_ends{number}(): {statement}\ndef test_after{number}(): pass\n"
    pytester.makepyfile(test_it=source)

    result = with_fakes("-v", "--kernel", "good,native", "--max-worker-restart=9")

    result.assert_outcomes(passed=2 * len(ENDS), failed=2 * len(ENDS))
    where = f"in the call of this test; the kernel (Linux {os.uname().release}) is well"
    for kernel in ("good", "native"):
        result.stdout.fnmatch_lines_random(
            [f"kernel {kernel}: the worker {end} {where}" for end in ENDS.values()]
        )
    result.stdout.no_fnmatch_line("*the guest*died*")
    result.stdout.re_match_lines(
        [
            "Fatal Python error: Segmentation fault",
            r"Current thread 0x\w+ .*\(most recent call first\):",
            r'  File ".*/ctypes/__init__.py", line \d+ in string_at',
            r'  File ".*/test_it.py", line 2 in test_ends0',
        ],
        consecutive=True,
    )
    result.stdout.no_re_match_line(r'  File ".*/(_pytest|pluggy)/')


@pytest.mark.parametrize("victim", ["worker", "another"])
def test_the_oom_killer_is_named_if_it_killed_the_worker(
    pytester: pytest.Pytester, with_fakes: Run, victim: str
) -> None:
    pytester.makepyfile(
        test_it=f"""
        import os, signal
        from pathlib import Path

        def test_ends():
            pid = os.getpid() + ({victim!r} == "another")
            with Path(os.environ["FAKE_GUEST_CONSOLE"]).open("a") as console:
                console.write(f"[   12.345678] Out of memory: Killed process {{pid}} (python)\\n")
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )

    result = with_fakes("--kernel", "good")

    killer = "the OOM killer" if victim == "worker" else "SIGKILL"
    told = [f"kernel good: the worker was killed by {killer} in the call of this test; *"]
    line = ["Out of memory: Killed process * (python)"] if victim == "worker" else []
    result.stdout.fnmatch_lines(told + line, consecutive=True)


def test_a_worker_that_dies_after_its_kernel_complained_is_told_with_both(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        test_it="""
        import os
        from pathlib import Path

        def test_ends():
            Path(os.environ["FAKE_GUEST_CONSOLE"]).write_text("BUG: KASAN: use-after-free\\n")
            os._exit(3)
        """
    )

    result = with_fakes("--kernel", "good")

    result.stdout.fnmatch_lines(
        [
            (
                "kernel good: the worker exited with status 3 in the call of this test;"
                " the kernel (Linux *) reported: BUG: KASAN: use-after-free"
            ),
            "The end of the guest's console:",
        ]
    )


# Runs that stop early


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
@pytest.mark.parametrize("failure", ["assert False", "panic('here')"])
def test_one_failure_stops_all_kernels(
    pytester: pytest.Pytester, with_fakes: Run, option: str, failure: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from pathlib import Path
        from fake_guests import panic
        from pytest_bpflink import eventually

        @pytest.mark.parametrize("n", range(30))
        def test_x(n, request):
            if n == 1 and "6.1" in request.node.name:
                {failure}
            if "7.2" in request.node.name:
                eventually(Path("failed").exists, within=30)
        """
    )
    pytester.makeconftest(
        """
        from pathlib import Path

        def pytest_runtest_logreport(report):
            if report.failed: Path("failed").touch()
        """
    )

    result = with_fakes("--kernel", "6.1,7.2", option)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    counts = result.parseoutcomes()
    assert counts["failed"] == 1
    assert counts["passed"] <= 5
    assert booted(pytester.path) == ["6.1", "7.2"]
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


@pytest.mark.parametrize(
    ("statement", "exception", "mark"),
    [
        ("pytest.exit('enough')", "pytest.exit('enough')", ""),
        ("pytest.exit('enough', returncode=0)", "pytest.exit('enough')", "fresh_kernel"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
    ],
)
def test_an_exception_that_ends_pytest_is_told_and_ends_the_run(
    pytester: pytest.Pytester, with_fakes: Run, statement: str, exception: str, mark: str
) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.{mark or "filterwarnings"}
        def test_x():
            {statement}

        def test_y(): pass
        """
    )

    result = with_fakes("-v", "--kernel", "good", "-k", "test_x")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.fnmatch_lines(
        [
            (
                f"kernel good: the worker was ended by {exception} in the call of this test;"
                f" the kernel (Linux {os.uname().release}) is well"
            ),
            '  File "*test_it.py", line 5, in test_x',
            f"*Interrupted: good*: {exception} *",
        ]
    )


def test_ctrl_c_ends_guests_and_leaves_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/support"), prepend=os.pathsep)
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    pytester.makepyfile(
        """
        import os, signal, time
        from pathlib import Path

        def test_x():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            Path("pid").write_text(f"{os.getpid()}\\n")
            time.sleep(60)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "fake_guests", "--kernel", "good"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    pid = pytester.path / "pid"
    eventually(lambda: pid.exists() and pid.read_text().endswith("\n"), within=30)

    os.killpg(process.pid, signal.SIGINT)

    # xdist alone takes 10 s to give up a worker that does not end.
    assert process.wait(timeout=5) == pytest.ExitCode.INTERRUPTED
    # Its parent died with it, so another process waits for it.
    eventually(lambda: not is_running(int(pid.read_text())))
    assert not list(temporary.glob("bpflink-*"))


def test_an_item_that_is_never_reported_is_an_internal_error(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass")
    pytester.makeconftest(
        """
        def pytest_report_from_serializable(data):
            data["nodeid"] = data["nodeid"].replace("test_y", "test_x")
        """
    )

    result = with_fakes("--kernel", "good")

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["*LostItems: collected, but never reported:*test_y?good?*"])


# Workers that collect other items


RANDOM = """
    import random, pytest
    from fake_guests import panic

    numbers = [random.randint(1, 10**9) for _ in range(3)]

    @pytest.mark.parametrize("n", numbers)
    def test_before(n): pass

    def test_panics(): panic("on purpose")

    @pytest.mark.parametrize("n", numbers)
    def test_after(n): pass

    def test_stable(): pass
"""


def test_items_that_a_replacing_guest_does_not_collect_are_errors_that_say_why(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(test_it=RANDOM)

    result = with_fakes("--kernel", "good")

    result.assert_outcomes(passed=4, failed=1, errors=3)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.fnmatch_lines(
        [
            "*good~2 collected other ids than the first worker of good: random values or a set in*",
            "*only the first worker has test_it.py::test_*-good]",
            "*only good~2 has test_it.py::test_*-good]",
            "kernel *passed *failed *skipped *errors",
            "good * 4 * 1 * 0 * 3",
        ]
    )


def test_workers_of_a_kernel_that_collect_other_ids_are_told_with_the_cause(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(test_it=RANDOM.replace("panic(", "(lambda why: None)("))

    result = with_fakes("--kernel", "good", "--kernel-workers", "2")

    assert result.ret != 0
    result.stdout.fnmatch_lines(["*collected other ids than the first worker of good: random*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


# Workers that collect nothing


def test_a_kernel_whose_worker_refuses_to_collect_fails_the_run(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.makeconftest(
        """
        import os, pytest

        @pytest.hookimpl(tryfirst=True)
        def pytest_collection(session):
            if "FAKE_GUEST_CONSOLE" in os.environ:
                raise pytest.UsageError("not found in this guest")
        """
    )

    result = with_fakes("--kernel", "native,good")

    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*good: not found in this guest*"])


@pytest.mark.parametrize("place", ["/dev/shm", "/run"])
def test_tests_that_no_guest_would_find_are_refused(with_fakes: Run, place: str) -> None:
    with tempfile.TemporaryDirectory(dir=place) as directory:
        (Path(directory) / "test_it.py").write_text("def test_it(): pass")

        result = with_fakes("--kernel", "native,good", f"{directory}/test_it.py")

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["*test_it.py is below /*, of which each guest has one of*"])
        with_fakes("--kernel", "native", f"{directory}/test_it.py").assert_outcomes(passed=1)
