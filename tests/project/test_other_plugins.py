"""Plugins that many use work in guests as they do natively."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.stored_kernels import CACHE

# Where tools/prepare puts what tests/project/other_plugins.txt names.
PLUGINS = Path(sys.prefix) / "other-plugins"


@pytest.mark.skipif(not PLUGINS.exists(), reason=f"make prepare has not made {PLUGINS}")
def test_plugins_in_common_use(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """pytest-cov, -html, -randomly, -repeat, -rerunfailures and -timeout, all in one run."""
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    monkeypatch.setenv("PYTHONPATH", str(PLUGINS))
    pytester.makepyfile(
        thing="""
        def on(spec):
            if spec == "native":
                return "this kernel"
            return "a guest"
        """,
        test_them="""
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
        """,
    )

    # In this order coverage is of a guest that does not panic later: with it goes what it measured.
    result = pytester.runpytest_subprocess(
        *("--kernel", "native,6.1", "-v", "-p", "no:cacheprovider", "--randomly-seed=1"),
        *("--cov", "thing", "--cov-report", "term-missing"),
        *("--html", tmp_path / "report.html", "--self-contained-html"),
        timeout=400,
    )

    # 7 tests on each of two kernels: two time out, and one panics, twice. In which phase can't be
    # known: pytest-rerunfailures reports when all phases are through.
    result.assert_outcomes(passed=11, failed=2, errors=1)
    result.stdout.re_match_lines_random(
        [
            "Using --randomly-seed=1",
            r"thing\.py +4 +0 +100%",
            r"E +Failed: Timeout \(>1\.0s\) from pytest-timeout\.",
            r"kernel 6\.1: the guest .* died in the setup of this test: Kernel panic - not.*",
        ]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    lines = [line for line in result.outlines if "RERUN" in line]
    for kernel in ("native", "6.1"):
        assert len([line for line in lines if f"test_passes_at_last[{kernel}]" in line]) == 2
    # It was run again in a fresh guest.
    assert len([line for line in lines if "test_panics_each_time[6.1]" in line]) == 1
    assert "test_again[1-3-6.1]" in (tmp_path / "report.html").read_text()
