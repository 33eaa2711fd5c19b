"""The matrix with real guests; bookkeeping is tested with processes, which is quicker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.store import cache_root

if TYPE_CHECKING:
    from pathlib import Path

# Pytester gives its runs another home: found before it does.
CACHE = cache_root()


@pytest.fixture
def stored_kernels(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    pytester.makeini("[pytest]\naddopts = -v -W error -p no:cacheprovider")


@pytest.mark.usefixtures("stored_kernels")
def test_tests_run_on_this_kernel_and_in_guests_with_others(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makepyfile(
        """
        import os, pytest
        from pathlib import Path

        def test_is_where_it_says(request, tmp_path):
            release = request.node.get_closest_marker("on_kernel").kwargs["release"]
            assert os.uname().release == release
            if "6.1" in request.node.name:
                assert release.startswith("6.1.")
            (tmp_path / "file").write_text("what a guest writes stays there")

        def test_panics(request):
            if "6.1" in request.node.name:
                Path("/proc/sysrq-trigger").write_text("c")

        def test_runs_in_a_fresh_guest(): pass
        """
    )

    result = pytester.runpytest_subprocess(
        "--kernel", "native,6.1", "--kernel-log", tmp_path, "--kernel-append", "quiet", timeout=400
    )

    result.assert_outcomes(passed=5, failed=1)
    result.stdout.re_match_lines(
        [
            r"kernel 6\.1: Linux 6\.1\.\S+ \(6\.1\.\d+\), (KVM|TCG)",
            r"_+ test_panics\[6\.1\] _+",
            r"kernel 6\.1: the guest \(Linux 6\.1\.\S+\) died in the call of this test: .*",
            r".*Kernel panic - not syncing: sysrq triggered crash",
            r"differs: .*::test_panics: passed on native; failed on 6\.1",
        ]
    )
    assert sorted(log.name for log in tmp_path.iterdir()) == ["6.1-1.log", "6.1-2.log"]


@pytest.mark.usefixtures("stored_kernels")
def test_a_kernel_that_does_not_boot_leaves_the_end_of_its_console(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_subprocess(
        "--kernel", "native,6.1", "--kernel-append", "rdinit=/nowhere init=/nowhere", timeout=400
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.re_match_lines([r"kernel 6\.1 \(Linux \S+\) did not boot: ", ".*Kernel panic.*"])
