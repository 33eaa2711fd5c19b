"""Results of runs on several kernels: made up, or read from the JSON report of a real run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from pytest_bpflink.reports.results import Result, Run, RunKernel, Section
from pytest_bpflink.session.kernel import MatrixKernel

if TYPE_CHECKING:
    from pathlib import Path

#: Text that tests and consoles may print, and that could break out of a format or terminal.
HOSTILE = (
    "</script></style></pre><img src=x onerror=alert(1)>`|`` | \\| *a* _b_ [l](http://x) @all #1 $1"
    " &amp; \x1b[31mred\x1b[0m \x1b]0;title\x07 \x00\x08\x9b \udc80 \u202e ${evil} $script ]]> -->"
    " ✓ 'q' \"q\""
)


def kernel(name: str, *, boot_seconds: float | None = 1.5, problem: str = "") -> RunKernel:
    """Return a kernel of a series, such as 6.1."""
    described = MatrixKernel(name, name, f"{name}.0-7-amd64", f"{name}.176", "kvm", "KVM works")
    return RunKernel(described, boot_seconds=boot_seconds, problem=problem)


def make_run(
    outcomes: dict[str, str], *, kernels: tuple[str, ...] = ("5.10", "6.1", "6.12")
) -> Run:
    """Return a run of tests, each with one letter per kernel: p, f, e, s, n, or - for no item.

    Each failure has another traceback; each skip has a reason.
    """
    run = Run("project", datetime(2026, 11, 21, tzinfo=UTC), seconds=3.0, exit_status=1)
    run.kernels = [kernel(name) for name in kernels]
    for test, letters in outcomes.items():
        results = run.tests[test] = {}
        for name, letter in zip(kernels, letters, strict=True):
            if letter != "-":
                results[name] = _result(f"{test}[{name}]", letter, name)
    return run


def _result(nodeid: str, letter: str, kernel_id: str) -> Result:
    if letter == "f":
        sections = (Section("Failure in the call", f"E   assert {nodeid}"),)
        return Result(nodeid, "failed", 0.25, f"assert on {kernel_id}", sections)
    if letter == "e":
        sections = (Section("Error in the set-up", "did not boot"),)
        return Result(nodeid, "error", 0.0, "did not boot", sections, ran=False)
    if letter == "s":
        return Result(nodeid, "skipped", 0.1, "needs link:tcx, which came with 6.6")
    return Result(nodeid, {"p": "passed", "n": "not_run"}[letter], 0.1)


# Reports


def reports(name: str) -> list[str]:
    """Return the options for all formats."""
    return [f"--kernel-report={name}{ending}" for ending in (".html", ".md", ".json")]


def read(file: Path) -> dict[str, Any]:
    """Read a JSON report, and check that it follows its schema and that its counts add up."""
    report: dict[str, Any] = json.loads(file.read_text())
    Draft202012Validator(schema()).validate(report)
    for kernel in report["kernels"]:
        outcomes = [
            test["results"][kernel["id"]]["outcome"]
            for test in report["tests"]
            if kernel["id"] in test["results"]
        ]
        assert kernel["items"] == len(outcomes) == sum(kernel["counts"].values())
        assert {name: outcomes.count(name) for name in kernel["counts"]} == kernel["counts"]
    return report


def schema() -> dict[str, Any]:
    """Return the JSON schema that is installed with the package."""
    file = resources.files("pytest_bpflink.reports").joinpath("schema.json")
    described: dict[str, Any] = json.loads(file.read_text())
    return described


def outcomes(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return outcomes by the test's name, without its file, and by kernel."""
    return {
        test["id"].partition("::")[2]: {
            kernel: result["outcome"] for kernel, result in test["results"].items()
        }
        for test in report["tests"]
    }


def results(report: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return a test's results by kernel."""
    (test,) = [test for test in report["tests"] if test["id"].endswith(f"::{name}")]
    found: dict[str, dict[str, Any]] = test["results"]
    return found
