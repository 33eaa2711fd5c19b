"""Items that need a fresh kernel: each runs in a guest with no other item, and none is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from tests.support.fake_guests import booted
from tests.support.processes import is_running

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

# Notes the process that each test runs in.
CONFTEST = """
    import os, pytest
    from pathlib import Path

    @pytest.fixture(autouse=True)
    def note(request):
        with Path("ran").open("a") as ran:
            ran.write(f"{os.getpid()} {request.node.name}\\n")
"""

SIX = """
    import os, pytest
    from pathlib import Path
    from fake_guests import panic

    if "FAKE_GUEST_CONSOLE" in os.environ:
        with Path("imported").open("a") as imported: imported.write("fresh\\n")

    @pytest.mark.fresh_kernel
    @pytest.mark.parametrize("n", range(4))
    def test_x(n):
        if n in {panics}: panic(f"in number {{n}}")

    def test_y(): pass
    def test_z(): pass
"""


def ran(pytester: pytest.Pytester) -> dict[str, list[str]]:
    """Return the tests by the process that they ran in."""
    by_process: dict[str, list[str]] = {}
    for line in (pytester.path / "ran").read_text().splitlines():
        process, name = line.split(" ", 1)
        by_process.setdefault(process, []).append(name)
    return by_process


def test_a_fresh_item_has_a_guest_and_a_collection_of_its_own(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        test_fresh=SIX.format(panics=set()),
        test_other="""
            import os
            from pathlib import Path

            if "FAKE_GUEST_CONSOLE" in os.environ:
                with Path("imported").open("a") as imported: imported.write("other\\n")

            def test_w(): pass
        """,
    )

    result = with_fakes("-v", "--kernel", "good,native")

    # Natively there is no fresh kernel.
    result.assert_outcomes(passed=10)
    assert sorted(ran(pytester).values()) == [
        ["test_x[0-good]"],
        ["test_x[1-good]"],
        ["test_x[2-good]"],
        ["test_x[3-good]"],
        ["test_y[good]", "test_z[good]", "test_w[good]"],
        ["test_y[native]", "test_z[native]", "test_w[native]"],
    ]
    assert Counter((pytester.path / "imported").read_text().split()) == {"fresh": 5, "other": 1}
    assert len(booted(pytester.path)) == 5
    result.stdout.re_match_lines_random([r".*\[100%\] PASSED.*"])


def test_a_fresh_item_that_is_skipped_gets_no_guest(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.fresh_kernel
        @pytest.mark.kernel("<2.6")
        def test_x(): pass

        @pytest.mark.fresh_kernel
        @pytest.mark.kernel("once")
        def test_y(): pass
        """
    )
    result = with_fakes("--kernel", "good")
    result.assert_outcomes(skipped=1, errors=1)
    result.stdout.fnmatch_lines("*write it as kernel*")
    assert len(booted(pytester.path)) == 2


def test_a_fresh_item_is_skipped_natively_or_run_on_demand(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n@pytest.mark.fresh_kernel\ndef test_x(): pass\ndef test_y(): pass"
    )

    result = pytester.runpytest_subprocess("-rs")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*needs a kernel on which nothing ran before: *(--kernel 6.12)*"])
    pytester.runpytest_subprocess("--bpf-native-all").assert_outcomes(passed=2)
    pytester.runpytest_subprocess("--kernel-fresh").assert_outcomes(passed=1, skipped=1)


def test_all_items_are_fresh_on_demand(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass\ndef test_z(): assert False")

    result = with_fakes("--kernel", "6.1,7.2", "--kernel-fresh", "--kernel-workers", "2")

    result.assert_outcomes(passed=4, failed=2)
    assert [len(names) for names in ran(pytester).values()] == [1] * 6
    assert len(booted(pytester.path)) == 10

    result = with_fakes("--kernel", "6.1,7.2", "--kernel-fresh", "--lf")

    result.assert_outcomes(failed=2)
    assert len(booted(pytester.path)) == 14


def test_guests_that_have_finished_leave_no_processes(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeconftest(
        """
        import os
        from pathlib import Path

        def pytest_runtest_logfinish():
            if "FAKE_GUEST_CONSOLE" in os.environ: return
            here = Path("/proc", str(os.getpid()), "task")
            children = " ".join(file.read_text() for file in here.glob("*/children")).split()
            stats = [Path("/proc", child, "stat").read_text() for child in children]
            zombies = sum(stat.rpartition(")")[2].split()[0] == "Z" for stat in stats)
            with Path("zombies").open("a") as file: file.write(f"{zombies}\\n")
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.fresh_kernel
        @pytest.mark.parametrize("n", range(12))
        def test_x(n): pass
        """
    )

    with_fakes("--kernel", "good").assert_outcomes(passed=12)

    counted = [int(number) for number in (pytester.path / "zombies").read_text().split()]
    assert len(counted) == 12
    # A guest that ends reaps the one before; as many guests may be ending as run at a time.
    assert max(counted) <= 4


def test_a_panic_in_a_fresh_guest_fails_that_item_only(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(SIX.format(panics={1, 2, 3}))

    result = with_fakes("--kernel", "6.1,7.2")

    result.assert_outcomes(passed=6, failed=6)
    result.stdout.fnmatch_lines(
        ["kernel 6.1: the guest *) died in the call of this test: Kernel panic*in number 1"]
    )
    assert len(booted(pytester.path)) == 10


def test_a_hang_in_a_fresh_guest_fails_that_item_only(
    pytester: pytest.Pytester, with_fakes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GUEST_LIMITS", "answer=0.5")
    pytester.makepyfile(
        """
        import pytest, time

        @pytest.mark.fresh_kernel
        @pytest.mark.parametrize("n", range(3))
        def test_x(n):
            if n == 1: time.sleep(60)
        """
    )

    result = with_fakes("--kernel", "good", "--kernel-timeout", "0.4")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*It was killed * after it began: *test_x?1-good?*"])


@pytest.mark.parametrize(
    ("kernel", "reason", "tries"),
    [
        ("bootsonce", ["*did not boot*", "No working init found"], 2),
        ("fullsoon", ["*No space left on device*"], 0),
    ],
)
def test_fresh_guests_that_can_not_start_are_errors(
    pytester: pytest.Pytester, with_fakes: Run, kernel: str, reason: list[str], tries: int
) -> None:
    pytester.makepyfile(SIX.replace("range(4)", "range(9)").format(panics=set()))

    result = with_fakes("--kernel", f"{kernel},good", "-rE", "-v")

    result.assert_outcomes(passed=13, errors=9)
    result.stdout.fnmatch_lines(reason)
    result.stdout.fnmatch_lines([f"*kernel {kernel}: 2 guests in a row could not start"])
    # As many guests as run at a time may have begun to boot before the second failed.
    assert tries <= len(booted(pytester.path)) - 11 <= 3 * tries
    result.stdout.fnmatch_lines([f"*ERROR at setup of test_x?8-{kernel}? *"])


def test_a_kernel_that_never_boots_is_an_error_of_each_item(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(SIX.format(panics=set()))

    with_fakes("--kernel", "unbootable").assert_outcomes(errors=6)

    assert len(booted(pytester.path)) == 1


def test_a_guest_that_dies_before_its_item_is_replaced_once(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import os, pytest
        from fake_guests import booted, panic

        if "FAKE_GUEST_CONSOLE" in os.environ and len(booted()) in {2}:
            panic("in collection")

        @pytest.mark.fresh_kernel
        def test_x(): pass
        """
    )

    with_fakes("--kernel", "good").assert_outcomes(passed=1)

    assert len(booted(pytester.path)) == 3
    path = next(pytester.path.glob("test_*.py"))
    path.write_text(path.read_text().replace("in {2}", "in {5, 6}"))

    result = with_fakes("--kernel", "good")

    result.assert_outcomes(errors=1)
    assert len(booted(pytester.path)) == 6
    result.stdout.fnmatch_lines(["*lost 2 workers*", "*", "Kernel panic*in collection"])


def test_an_item_that_is_not_found_alone_is_found_among_all(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(SIX.format(panics=set()))
    # Like a plugin that runs every second test here and the others elsewhere.
    pytester.makeconftest(
        """
        def pytest_collection_modifyitems(items):
            if len(items) < 2: items.clear()
        """
    )

    with_fakes("--kernel", "good").assert_outcomes(passed=6)

    assert len(booted(pytester.path)) == 9


def test_items_of_a_group_never_run_at_the_same_time(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, time
        from pathlib import Path

        pytestmark = pytest.mark.xdist_group("port")

        @pytest.fixture(autouse=True)
        def port():
            Path("port").mkdir()
            yield
            time.sleep(0.2)
            Path("port").rmdir()

        @pytest.mark.fresh_kernel
        @pytest.mark.parametrize("n", range(3))
        def test_x(n): pass

        @pytest.mark.parametrize("n", range(3))
        def test_y(n): pass
        """
    )

    with_fakes("--kernel", "good", "--kernel-workers", "2").assert_outcomes(passed=6)


@pytest.mark.parametrize("failure", ["assert False", "panic('here')"])
def test_one_failure_stops_fresh_guests(
    pytester: pytest.Pytester, with_fakes: Run, failure: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from fake_guests import panic

        @pytest.mark.parametrize("n", range(20))
        def test_x(n):
            if n == 1:
                {failure}
        """
    )

    result = with_fakes("--kernel", "6.1", "--kernel-fresh", "-x")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert result.parseoutcomes()["failed"] == 1
    assert len(booted(pytester.path)) < 10
    result.stdout.fnmatch_lines(["*stopping after 1 failures*"])


def test_ctrl_c_ends_fresh_guests(pytester: pytest.Pytester, with_fakes: Run) -> None:
    del with_fakes  # for its environment
    temporary = pytester.path / "temporary"
    pytester.makepyfile(
        """
        import os, time
        from pathlib import Path

        def test_x():
            Path(f"{os.getpid()}.pid").touch()
            time.sleep(60)

        def test_y(): test_x()
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "fake_guests", "--kernel=good", "--kernel-fresh"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually(lambda: len(list(pytester.path.glob("*.pid"))) == 2, within=30)

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(timeout=5) == pytest.ExitCode.INTERRUPTED
    # Their parents died with them, so another process waits for them.
    pids = [int(pid.stem) for pid in pytester.path.glob("*.pid")]
    eventually(lambda: not any(map(is_running, pids)))
    assert not list(temporary.glob("bpflink-*"))


# Known bugs


def test_a_known_bug_is_an_expected_failure_where_the_guest_dies_of_it(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import os, pytest
        from fake_guests import panic

        @pytest.mark.kernel_bug("commit 123")
        def test_bug(request):
            if "6.1" in request.node.name: panic("list_add double add")

        @pytest.mark.kernel_bug("commit 123")
        def test_other():
            os._exit(1)

        def test_x(): pass
        def test_y(): pass
        """
    )

    result = with_fakes("--kernel", "6.1,7.2,native", "--maxfail", "3", "-rx", "--xfail-tb")

    # A guest that ends without a message of its kernel is no evidence of a kernel bug.
    result.assert_outcomes(passed=7, failed=2, xfailed=1)
    panic = "Kernel panic - not syncing: list_add double add"
    result.stdout.fnmatch_lines(
        [
            "*- Console of the guest -*",
            panic,
            f"6.1: *test_bug: known kernel bug: commit 123: {panic}",
            f"XFAIL *test_bug?6.1? - known kernel bug: commit 123: {panic}",
        ]
    )
    assert sorted(map(len, ran(pytester).values())) == [1] * 4 + [2] * 3
    assert len(booted(pytester.path)) == 6


# Tainted kernels


def test_what_follows_a_test_that_taints_the_kernel_gets_a_fresh_guest(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest
        from fake_guests import taint

        torn_down = []

        @pytest.fixture(scope="session")
        def kept():
            yield
            with open("torn_down", "a") as file: file.write("x")

        def test_a(kept): pass
        def test_b(kept): taint(1 << 9)
        def test_c(kept): pass
        def test_d(kept): taint(1 << 9); assert False
        """
    )

    result = with_fakes("--kernel", "good", "--junitxml", "junit.xml")

    result.assert_outcomes(passed=3, failed=1)
    assert list(ran(pytester).values()) == [
        ["test_a[good]", "test_b[good]"],
        ["test_c[good]", "test_d[good]"],
    ]
    assert (pytester.path / "torn_down").read_text() == "xx"
    assert len(booted(pytester.path)) == 2
    said = "good: *::test_{}?good? left the kernel tainted: W (it warned)"
    result.stdout.fnmatch_lines([f"{said.format('b')}; the next tests get a fresh guest"])
    result.stdout.fnmatch_lines([said.format("d")])
    tainted = "This test left the kernel tainted: W (it warned)"
    result.stdout.fnmatch_lines(["*- Kernel -*", tainted])
    junit = (pytester.path / "junit.xml").read_text()
    assert junit.count('<property name="kernel_tainted" value="W (it warned)" />') == 2
