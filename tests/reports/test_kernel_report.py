"""--kernel-report: the contents of reports, on several kernels and on this one alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import ROOT
from tests.support.kernel_runs import outcomes, read, reports, results, schema
from tests.support.sessions import run_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunWithFakes = Callable[..., pytest.RunResult]


EVERYTHING = """
    import os, unittest
    import pytest
    from fake_guests import panic

    @pytest.mark.parametrize("n", [1, 2])
    def test_dies(n, request):
        if request.node.name == "test_dies[2-6.1]":
            panic("in number 2")

    def test_fails(request):
        print("printed before")
        assert "7.2" not in request.node.name, "not on 7.2"

    def test_skips(request):
        if "6.1" in request.node.name:
            pytest.skip("needs link:tcx")

    @pytest.mark.xfail(reason="known for long")
    def test_known(): assert 0

    @pytest.mark.xfail
    def test_mended(): pass

    @pytest.fixture
    def fragile():
        yield
        assert 0, "in the teardown"

    def test_teardown(fragile): pass

    def test_both(fragile): assert 0, "in the call"

    def test_part(subtests, request):
        with subtests.test("one"): pytest.skip("which is nothing to its test")
        with subtests.test("other"): assert "7.2" not in request.node.name, "in a part"

    class TestCase(unittest.TestCase):
        def test_once(self): pass
"""


@dataclass(frozen=True)
class Reported:
    """A session, its JSON report, and the directory of its other reports."""

    directory: Path
    result: pytest.RunResult
    report: dict[str, Any]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Run tests with every outcome, on several kernels, one of which does not boot."""
    directory = tmp_path_factory.mktemp("everything")
    (directory / "test_a.py").write_text(dedent(EVERYTHING))
    result = run_session(
        directory, "-p", "fake_guests", "-W", "error", "-v",
        "--kernel", "native,6.1,7.2,unbootable",
        "--kernel-report", "r.json", "--kernel-report", "r.md", "--kernel-report=r.html",
        PYTHONPATH=str(ROOT / "tests/support"), TMPDIR=str(directory),
    )  # fmt: skip
    return Reported(directory, result, read(directory / "r.json"))


def test_each_test_has_its_outcome_on_each_kernel(everything: Reported) -> None:
    alike = {"native": "passed", "6.1": "passed", "7.2": "passed", "unbootable": "error"}
    ran = ("native", "6.1", "7.2")
    assert outcomes(everything.report) == {
        "test_dies[1]": alike,
        "test_dies[2]": alike | {"6.1": "failed"},
        "test_fails": alike | {"7.2": "failed"},
        "test_skips": alike | {"6.1": "skipped"},
        "test_known": alike | dict.fromkeys(ran, "xfailed"),
        "test_mended": alike | dict.fromkeys(ran, "xpassed"),
        "test_teardown": alike | dict.fromkeys(ran, "error"),
        "test_both": alike | dict.fromkeys(ran, "error"),
        "test_part": alike | {"7.2": "failed"},
        "TestCase::test_once": {"native": "passed"},
    }


def test_a_unittest_method_is_not_parametrized_by_kernel(everything: Reported) -> None:
    tests = everything.report["tests"]
    assert [test["id"] for test in tests if not test["parametrized"]] == [
        "test_a.py::TestCase::test_once"
    ]


def test_changes_are_of_tests_whose_outcome_depends_on_the_kernel(everything: Reported) -> None:
    tests = everything.report["tests"]
    changes = {test["id"].partition("::")[2]: test["changes"] for test in tests if test["changes"]}
    assert set(changes) == {"test_dies[2]", "test_fails", "test_skips", "test_part"}
    assert changes["test_skips"] == {
        "at": "6.1", "by_outcome": {"passed": ["native", "7.2"], "skipped": ["6.1"]}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("test", "kernel", "reason"),
    [
        ("test_skips", "6.1", "needs link:tcx"),
        ("test_known", "6.1", "known for long"),
        ("test_fails", "7.2", "AssertionError: not on 7.2"),
        ("test_part", "7.2", "*AssertionError: in a part*"),
        ("test_both", "native", "AssertionError: in the call*AssertionError: in the teardown*"),
        (
            "test_dies[2]",
            "6.1",
            "*died in the call of this test: Kernel panic - not syncing: in number 2",
        ),
    ],
)
def test_outcome_has_its_reason(everything: Reported, test: str, kernel: str, reason: str) -> None:
    assert fnmatchcase(results(everything.report, test)[kernel]["reason"], reason)


def test_result_has_the_node_id_of_its_item(everything: Reported) -> None:
    result = results(everything.report, "test_skips")["7.2"]
    assert result["nodeid"] == "test_a.py::test_skips[7.2]"


def test_failure_has_its_traceback_and_its_output(everything: Reported) -> None:
    sections = details(everything.report, "test_fails", "7.2")
    texts = {section["title"]: section["text"] for section in sections}
    assert texts["Captured stdout call"] == "printed before"
    assert "assert '7.2' not in" in texts["Failure in the call"]


def test_panic_has_the_end_of_the_console(everything: Reported) -> None:
    (crash,) = details(everything.report, "test_dies[2]", "6.1")
    assert "The end of its console:\nKernel panic - not syncing: in number 2" in crash["text"]


def test_kernel_has_its_boot_time_and_its_lost_guests(everything: Reported) -> None:
    native, dying, good, _ = everything.report["kernels"]
    assert (native["boot_seconds"], native["release"]) == (None, os.uname().release)
    assert dying["guests_lost"] == 1
    assert (good["guests_lost"], good["problem"]) == (0, None)
    assert good["boot_seconds"] < 10


def test_kernel_that_did_not_boot_has_its_problem_and_ran_nothing(everything: Reported) -> None:
    tests = everything.report["tests"]
    *_, dead = everything.report["kernels"]
    assert (dead["boot_seconds"], dead["counts"]["error"]) == (None, 9)
    assert dead["problem"].endswith("No working init found")
    assert not any(test["results"].get("unbootable", {}).get("ran") for test in tests)


def test_boot_that_failed_is_described_once_for_all_its_items(everything: Reported) -> None:
    dead = [results(everything.report, f"test_dies[{n}]")["unbootable"] for n in (1, 2)]
    assert dead[0]["details"] == dead[1]["details"]


def test_report_has_the_exit_status(everything: Reported) -> None:
    assert everything.report["exit_status"] == everything.result.ret == pytest.ExitCode.TESTS_FAILED
    assert everything.report["stopped"] is None


def test_terminal_names_the_report(everything: Reported) -> None:
    path = everything.directory / "r.json"
    everything.result.stdout.fnmatch_lines([f"*- kernel report: {path} -*"])


@pytest.mark.parametrize("name", ["r.html", "r.md"])
def test_reports_for_people_have_reasons_and_consoles(everything: Reported, name: str) -> None:
    text = (everything.directory / name).read_text()
    assert "needs link:tcx" in text
    assert "No working init found" in text


def details(report: dict[str, Any], name: str, kernel: str) -> list[dict[str, str]]:
    """Return the texts about an item."""
    found: list[dict[str, str]] = report["details"][results(report, name)[kernel]["details"]]
    return found


def test_an_unknown_kernel_is_reported_with_its_problem(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile("def test_x(): pass")

    with_fakes("--kernel", "unknown,good", *reports("r")).assert_outcomes(passed=1, errors=1)

    report = read(pytester.path / "r.json")
    unknown, good = report["kernels"]
    assert (unknown["release"], unknown["where"], unknown["counts"]["error"]) == (None, None, 1)
    assert "there is no kernel unknown; there are: good" in unknown["problem"]
    assert good["counts"]["passed"] == 1
    for name in ("r.html", "r.md"):
        assert "there is no kernel unknown" in (pytester.path / name).read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-p", "no:xdist"],
        ["-n", "2"],
        ["--kernel", "native"],
        ["--kernel", "native", "-n", "2"],
    ],
    ids=" ".join,
)
def test_a_run_on_this_kernel_is_a_matrix_of_one(
    pytester: pytest.Pytester, with_fakes: RunWithFakes, arguments: list[str]
) -> None:
    pytester.makepyfile(
        test_a="""
        import pytest

        @pytest.mark.parametrize("n", [1, 2])
        def test_x(n): assert n == 1

        def test_y(): pytest.skip("not today")
        """
    )
    pytester.maketxtfile(test_doc=">>> 1 + 1\n2\n")

    with_fakes(*arguments, "--kernel-report", "r.json").assert_outcomes(
        passed=2, failed=1, skipped=1
    )

    report = read(pytester.path / "r.json")
    assert outcomes(report) == {
        "test_x[1]": {"native": "passed"},
        "test_x[2]": {"native": "failed"},
        "test_y": {"native": "skipped"},
        "test_doc.txt": {"native": "passed"},
    }
    (kernel,) = report["kernels"]
    assert (kernel["id"], kernel["release"]) == ("native", os.uname().release)
    ending = "[1-native]" if "--kernel" in arguments else "[1]"
    assert results(report, "test_x[1]")["native"]["nodeid"] == f"test_a.py::test_x{ending}"


def test_the_terminal_shows_the_worst_differences_and_says_how_to_see_all(
    pytester: pytest.Pytester, with_fakes: RunWithFakes
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("n", range(45))
        def test_x(n, request):
            if "6.1" in request.node.name:
                pytest.skip()

        def test_worst(request): assert "6.1" not in request.node.name
        """
    )

    for verbose, shown in (([], 40), (["-v"], 46)):
        result = with_fakes("--kernel", "native,6.1", *verbose)

        differing = [line for line in result.outlines if line.startswith("differs: ")]
        assert len(differing) == shown
        assert "::test_worst: passed on native; failed on 6.1; changes at 6.1" in differing[0]
        said = [line for line in result.outlines if line.startswith("and 6 more that differ: -v")]
        assert len(said) == (0 if verbose else 1)


def test_documentation_has_the_names_of_the_schema() -> None:
    """Each name of the schema has a row, and there is no other row."""
    whole = schema()
    described = (ROOT / "docs/report-schema.md").read_text()
    sections = {
        "The run": whole,
        "A kernel": whole["$defs"]["kernel"],
        "A test": whole["$defs"]["test"],
        "A result": whole["$defs"]["result"],
        "A program": whole["$defs"]["program"],
        "A cost": whole["$defs"]["cost"],
    }
    for title, part in sections.items():
        table = described.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
        rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
        names = [name.strip(" `") for row in rows for name in row.split(",")]
        assert names == [*part["properties"]]
        assert part["required"] == [*part["properties"]]
