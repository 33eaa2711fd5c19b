"""Widely used plugins work in guests as they do natively."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.sessions import run_session

# tools/prepare installs the packages of tests/project/other_plugins.txt here.
PLUGINS = Path(sys.prefix) / "other-plugins"


pytestmark = pytest.mark.skipif(not PLUGINS.exists(), reason=f"make prepare has not made {PLUGINS}")

THING = """
def on(spec):
    if spec == "native":
        return "this kernel"
    return "a guest"
"""

TESTS = """
import sys
import time
from pathlib import Path

import pytest
import thing

runs = 0

def test_coverage_is_of_guests_too(request):
    assert thing.on(request.node.get_closest_marker("on_kernel").kwargs["spec"])

@pytest.mark.timeout(1)
def test_takes_too_long():
    time.sleep(60)

@pytest.mark.flaky(reruns=2)
def test_passes_at_last(count=[]):
    count.append(1)
    assert len(count) == 3

@pytest.mark.flaky(reruns=1)
def test_panics_each_time(request):
    if "6.1" in request.node.name:
        Path("/proc/sysrq-trigger").write_text("c")

@pytest.mark.repeat(3)
def test_again(): pass
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with tests, for a session with all of the plugins."""
    made = tmp_path_factory.mktemp("plugins")
    (made / "thing.py").write_text(THING)
    (made / "test_them.py").write_text(TESTS)
    return made


@pytest.fixture(scope="module")
def result(directory: Path) -> pytest.RunResult:
    """Run the tests once, with pytest-cov, -html, -randomly, -repeat, -rerunfailures, -timeout."""
    # With this seed the measured test does not run in the guest that panics: that guest's coverage
    # data is lost.
    return run_session(
        directory,
        *("--kernel", "native,6.1", "-v", "-p", "no:cacheprovider", "--randomly-seed=1"),
        *("--cov", "thing", "--cov-report", "term-missing"),
        *("--html", "report.html", "--self-contained-html"),
        timeout=400,
        PYTHONPATH=str(PLUGINS),
    )


def test_each_item_is_reported_once(result: pytest.RunResult) -> None:
    # 7 tests on each of two kernels: two time out, and one panics, twice. The phase of the panic
    # is not known: pytest-rerunfailures reports when all phases are over.
    result.assert_outcomes(passed=11, failed=2, errors=1)
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_coverage_is_of_guests_too(result: pytest.RunResult) -> None:
    result.stdout.re_match_lines([r"thing\.py +4 +0 +100%"])


def test_order_is_that_of_the_seed(result: pytest.RunResult) -> None:
    result.stdout.fnmatch_lines(["Using --randomly-seed=1"])


def test_test_that_takes_too_long_fails(result: pytest.RunResult) -> None:
    line = "E * Failed: Timeout (>1.0s) from pytest-timeout."
    result.stdout.fnmatch_lines([line, line])


@pytest.mark.parametrize("kernel", ["native", "6.1"])
def test_failure_is_rerun(result: pytest.RunResult, kernel: str) -> None:
    assert len(reruns(result, f"test_passes_at_last[{kernel}]")) == 2


def test_test_that_panics_is_rerun_in_a_fresh_guest(result: pytest.RunResult) -> None:
    assert len(reruns(result, "test_panics_each_time[6.1]")) == 1
    result.stdout.fnmatch_lines(
        ["kernel 6.1: the guest * died in the setup of this test: Kernel panic - not*"]
    )


@pytest.mark.usefixtures("result")
def test_html_report_has_the_repeated_item_of_a_guest(directory: Path) -> None:
    assert "test_again[1-3-6.1]" in (directory / "report.html").read_text()


def reruns(result: pytest.RunResult, test: str) -> list[str]:
    """Return the lines that say that a test was run again."""
    return [line for line in result.outlines if "RERUN" in line and f"::{test}" in line]
