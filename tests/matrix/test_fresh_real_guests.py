"""Items on fresh kernels, and the directory that guests may write to, with real guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.long import long
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _stored_kernels(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    pytester.makeini("[pytest]\naddopts = -v -W error -p no:cacheprovider")


def test_items_on_fresh_kernels(pytester: pytest.Pytester) -> None:
    results = pytester.mkdir("results")
    pytester.makepyfile(
        """
        import pytest
        from pathlib import Path

        BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        STARTED = Path("/proc/sys/net/core/somaxconn")

        @pytest.fixture(autouse=True)
        def note(request):
            Path("results", request.node.name.partition("[")[0]).write_text(BOOT_ID)
            Path("elsewhere").write_text("stays in the guest")

        def test_first():
            STARTED.write_text("77")

        @pytest.mark.fresh_kernel
        def test_fresh():
            assert STARTED.read_text() != "77\\n"

        @pytest.mark.kernel_bug("sysrq")
        def test_bug():
            Path("/proc/sysrq-trigger").write_text("c")

        def test_taints():
            assert STARTED.read_text() == "77\\n"
            Path("/proc/sys/kernel/tainted").write_text("512")

        def test_after(): pass
        """
    )

    result = pytester.runpytest_subprocess(
        *("--kernel", "6.12", "--kernel-rw", "results", "-rx"), timeout=400
    )

    result.assert_outcomes(passed=4, xfailed=1)
    boot_ids = {file.name: file.read_text() for file in results.iterdir()}
    assert boot_ids["test_first"] == boot_ids["test_taints"]
    assert len(set(boot_ids.values())) == 4
    assert not (pytester.path / "elsewhere").exists()
    result.stdout.fnmatch_lines(
        [
            "6.12: *::test_taints?6.12? left the kernel tainted: W (it warned); the next tests*",
            "6.12: *::test_bug: known kernel bug: sysrq: Kernel panic*sysrq triggered crash",
        ]
    )


@pytest.mark.parametrize("kind", ["cold", pytest.param("plain", marks=long)])
def test_files_that_guests_write_to_the_rw_directory_are_kept(
    pytester: pytest.Pytester, tmp_path: Path, kind: str
) -> None:
    pytester.makepyfile(
        f"""
        from pathlib import Path

        def test_x():
            Path("{tmp_path}/result").write_text("here")
            Path("elsewhere").write_text("stays in the guest")
        """
    )

    result = pytester.runpytest_subprocess(
        *("--kernel", "6.12", "--kernel-guest", kind, "--kernel-rw", tmp_path), timeout=400
    )

    result.assert_outcomes(passed=1)
    assert (tmp_path / "result").read_text() == "here"
    assert not (pytester.path / "elsewhere").exists()
