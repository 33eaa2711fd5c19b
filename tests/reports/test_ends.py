"""--kernel-report of runs that end early, and with files that can't be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kernel_runs import outcomes, read, reports

if TYPE_CHECKING:
    from collections.abc import Callable

    RunWithFakes = Callable[..., pytest.RunResult]

# Runs that end early


@pytest.mark.parametrize("kernels", [[], ["--kernel", "good,6.1"]], ids=" ".join)
def test_items_that_a_stopped_run_did_not_reach_are_not_run(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, kernels: list[str]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(20))
        def test_x(n): assert n
        """
    )

    result = with_fakes("-x", *kernels, "--kernel-report", "r.json")

    report = read(pytester.path / "r.json")
    counts = [kernel["counts"] for kernel in report["kernels"]]
    assert sum(count["failed"] for count in counts) >= 1
    assert sum(count["not_run"] for count in counts) >= 10
    assert all(sum(count.values()) == 20 for count in counts)
    assert report["stopped"].startswith("stopping after")
    assert report["exit_status"] == result.ret
    if kernels:
        result.stdout.re_match_lines([r"kernel +release .* errors +not run"])


INTERRUPTED = """
    import os, signal, time
    from pathlib import Path
    from pytest_bpflink import eventually

    def test_before(): pass

    def test_x():
        eventually(Path("reported").exists)
        os.kill(int(os.environ["CONTROLLER"]), signal.SIGINT)
        time.sleep(30)

    def test_after(): pass
"""


@pytest.mark.parametrize("kernels", [[], ["--kernel", "good"]], ids=" ".join)
def test_an_interrupted_run_keeps_its_results(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, kernels: list[str]
) -> None:
    pytester.makepyfile(INTERRUPTED)
    pytester.makeconftest(
        """
        import os
        from pathlib import Path

        # Workers inherit it.
        os.environ.setdefault("CONTROLLER", str(os.getpid()))

        def pytest_runtest_logreport(report):
            # In the controller, if there is one: its reports have a node.
            if report.when == "teardown" and hasattr(report, "node") == bool(KERNELS):
                Path("reported").touch()
        """.replace("KERNELS", repr(kernels))
    )

    result = with_fakes(*kernels, *reports("r"))

    assert result.ret == pytest.ExitCode.INTERRUPTED
    report = read(pytester.path / "r.json")
    assert [list(each.values()) for each in outcomes(report).values()] == [
        ["passed"], ["not_run"], ["not_run"]
    ]  # fmt: skip
    assert report["exit_status"] == pytest.ExitCode.INTERRUPTED
    assert report["stopped"] == "interrupted"
    assert "**Stopped:** interrupted" in (pytester.path / "r.md").read_text()


@pytest.mark.parametrize("kernels", [[], ["--kernel", "good,6.1"]], ids=" ".join)
def test_a_file_that_can_not_be_collected_is_reported_once(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, kernels: list[str]
) -> None:
    pytester.makepyfile(
        test_broken="import absent_from_everywhere",
        test_other="import pytest\npytest.skip('not here', allow_module_level=True)",
        test_good="def test_x(): pass",
    )

    with_fakes(*kernels, "--continue-on-collection-errors", "--kernel-report", "r.json")

    report = read(pytester.path / "r.json")
    broken, skipped = sorted(report["uncollected"], key=lambda each: str(each["nodeid"]))
    assert (broken["nodeid"], broken["outcome"]) == ("test_broken.py", "error")
    assert broken["reason"] == "ModuleNotFoundError: No module named 'absent_from_everywhere'"
    assert (skipped["outcome"], skipped["reason"]) == ("skipped", "not here")
    assert set(outcomes(report)["test_x"].values()) == {"passed"}


def test_a_file_that_can_not_be_collected_on_one_kernel_names_it(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile(
        """
        import os
        if "FAKE_GUEST_CONSOLE" in os.environ:
            import absent_from_guests

        def test_x(): pass
        """
    )

    result = with_fakes("--kernel", "native,good", "--kernel-report", "r.json")

    name = "test_a_file_that_can_not_be_collected_on_one_kernel_names_it.py"
    result.stdout.fnmatch_lines([f"not collected on good: {name}"])
    (broken,) = read(pytester.path / "r.json")["uncollected"]
    assert (broken["nodeid"], broken["kernels"]) == (name, ["good"])


def test_a_run_that_stops_at_errors_in_collection_says_so(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile(test_broken="import absent_from_everywhere")

    with_fakes("--kernel-report", "r.json")

    report = read(pytester.path / "r.json")
    assert report["stopped"] == "1 error during collection"
    assert [each["nodeid"] for each in report["uncollected"]] == ["test_broken.py"]


def test_a_run_that_is_interrupted_before_it_begins_leaves_no_old_report(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile("def test_x(): pass")
    with_fakes("--kernel-report", "r.json")
    pytester.makeconftest("def pytest_sessionstart(): raise KeyboardInterrupt")

    result = with_fakes("--kernel-report", "r.json")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    report = read(pytester.path / "r.json")
    assert (report["tests"], report["stopped"]) == ([], "interrupted")


def test_an_internal_error_keeps_earlier_results(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass")
    pytester.makeconftest(
        """
        def pytest_runtest_logstart(nodeid):
            if "test_y" in nodeid:
                raise RuntimeError("in a plugin")
        """
    )

    result = with_fakes("--kernel-report", "r.json")

    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    report = read(pytester.path / "r.json")
    assert [each["native"] for each in outcomes(report).values()] == ["passed", "not_run"]
    assert report["stopped"] == "internal error: RuntimeError: in a plugin"
    result.stdout.fnmatch_lines(["*- kernel report: *r.json -*"])


@pytest.mark.parametrize("kernels", [[], ["--kernel", "good"]], ids=" ".join)
def test_a_run_without_tests_has_an_empty_report(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, kernels: list[str]
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes(*kernels, "-k", "absent", *reports("r"))

    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    report = read(pytester.path / "r.json")
    assert (report["tests"], report["exit_status"]) == ([], 5)
    assert len(report["kernels"]) == 1
    assert "no tests on 1 kernel" in (pytester.path / "r.html").read_text()
    assert "no tests on 1 kernel" in (pytester.path / "r.md").read_text()


def test_collecting_only_writes_no_report(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile("def test_x(): pass")

    assert with_fakes("--collect-only", *reports("r")).ret == 0
    assert with_fakes("--collect-only", "--kernel", "good", *reports("r")).ret == 0

    assert not list(pytester.path.glob("r.*"))


# Files that can't be written


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("r.txt", "*argument --kernel-report: 'r.txt' names no format: it must end with .html or*"),
        ("r", "*argument --kernel-report: 'r' names no format*"),
        ("absent/r.md", "ERROR: --kernel-report: *absent/r.md can't be written: there is no dir*"),
        ("/proc/r.md", "ERROR: --kernel-report: /proc/r.md can't be written: *"),
        ("directory.md", "ERROR: --kernel-report: *directory.md can't be written: it is a dir*"),
        ("file/r.md", "ERROR: --kernel-report: *file/r.md can't be written: Not a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_a_usage_error_before_anything_boots(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, file: str, message: str
) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.mkdir("directory.md")
    (pytester.path / "file").touch()

    for kernels in ([], ["--kernel", "good"]):
        result = with_fakes(*kernels, "--kernel-report", "r.json", "--kernel-report", file)

        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([message])
        result.stdout.no_fnmatch_line("*fetching*")
    assert not (pytester.path / "boots").exists()
    assert not (pytester.path / "r.json").exists()


@pytest.mark.parametrize("quiet", [[], ["-qq"], ["--no-summary"], ["-p", "no:terminal"]])
def test_a_full_disk_does_not_hide_the_results(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, quiet: list[str]
) -> None:
    pytester.makepyfile("def test_x(): pass")
    (pytester.path / "r.md").symlink_to("/dev/full")

    result = with_fakes(*quiet, *reports("r"))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = result.stderr if "no:terminal" in quiet else result.stdout
    said.fnmatch_lines(["ERROR: --kernel-report: *r.md was not written: No space left on device"])
    if not quiet:
        result.assert_outcomes(passed=1)
    # The other reports are complete.
    assert read(pytester.path / "r.json")["kernels"][0]["counts"]["passed"] == 1
    assert (pytester.path / "r.html").exists()


def test_a_defect_of_a_format_does_not_hide_the_results(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.makeconftest(
        "from pytest_bpflink.reports import files\nfiles._FORMATS['.md'] = lambda run: 1 / 0"
    )

    result = with_fakes(*reports("r"))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["ERROR: --kernel-report: *r.md was not written, *a defect*", "ZeroDivisionError: *"]
    )
    assert read(pytester.path / "r.json")


def test_a_test_that_changes_the_directory_does_not_move_the_report(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile("import os\ndef test_x(): os.chdir('/')")

    with_fakes("--kernel-report", "r.json")

    assert read(pytester.path / "r.json")
