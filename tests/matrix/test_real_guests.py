"""The matrix with real guests; the bookkeeping is tested with fake guests, which are faster."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.vm import kernels
from tests.support.long import long
from tests.support.processes import children_of, is_running
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator


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
                # What lies beside it is this run's: the host's is not seen.
                assert os.listdir(tmp_path.parents[1]) == [tmp_path.parent.name]
            (tmp_path / "file").write_text("what a guest writes stays there")

        def test_panics(request):
            if "6.1" in request.node.name:
                Path("/proc/sysrq-trigger").write_text("c")

        def test_runs_in_a_fresh_guest(): pass
        """
    )

    result = pytester.runpytest_subprocess(
        *("--kernel", "native,6.1", "--kernel-log", tmp_path, "--kernel-report", "r.json"),
        timeout=400,
    )

    result.assert_outcomes(passed=5, failed=1)
    result.stdout.re_match_lines(
        [
            r"kernel 6\.1: Linux 6\.1\.\S+ \(6\.1\.\d+\), (KVM|TCG)",
            r"_+ test_panics\[6\.1\] _+",
            r"kernel 6\.1: the guest \(Linux 6\.1\.\S+\) died in the call of this test: .*",
            r".*Kernel panic - not syncing: sysrq triggered crash",
            r"differs: .*::test_panics: .*failed on 6\.1[;,]",
        ]
    )
    assert sorted(log.name for log in tmp_path.iterdir()) == ["6.1-1.log", "6.1-2.log"]
    report = json.loads((pytester.path / "r.json").read_text())
    assert [kernel["items"] for kernel in report["kernels"]] == [3, 3]
    _, guest = report["kernels"]
    assert guest["boot_seconds"] > 0
    assert (guest["guests_lost"], guest["version"][:4]) == (1, "6.1.")
    (panic,) = report["details"]
    assert "Kernel panic - not syncing: sysrq triggered crash" in panic[0]["text"]


@pytest.mark.parametrize("is_kvm_known", [True, False], ids=["known", "unknown"])
@pytest.mark.usefixtures("stored_kernels")
def test_an_image_with_a_flipped_byte_is_told_at_once(
    pytester: pytest.Pytester,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_kvm_known: bool,
) -> None:
    kernel = kernels.find("5.10")
    assert kernel.modules
    root = kernel.image.parents[1]
    tree = tmp_path / "cache/kernels" / root.name
    shutil.copytree(root / "boot", tree / "boot")
    for other in {*root.iterdir()} - {root / "boot"}:
        (tree / other.name).symlink_to(other)
    if is_kvm_known and (CACHE / "kvm.json").exists():
        shutil.copy(CACHE / "kvm.json", tmp_path / "cache")
    image = tree / "boot" / kernel.image.name
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_subprocess("--kernel", "native,5.10", timeout=100)

    result.assert_outcomes(passed=1, errors=1)
    what = f"{image} is damaged, since its payload does not unpack (*)"
    way_out = f"fetch it again: bpflink kernels remove {kernel.version}"
    result.stdout.fnmatch_lines([f"*--kernel 5.10: {what}; {way_out}"])


@pytest.mark.usefixtures("stored_kernels")
def test_panics_on_some_kernels_and_a_path_that_is_no_kernel_lose_nothing(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    no_kernel = tmp_path / "bzImage"
    no_kernel.write_text("no kernel")
    pytester.makepyfile(
        """
        from pathlib import Path
        import pytest

        @pytest.mark.parametrize("number", range(10))
        def test_x(number, request):
            kernel = request.node.get_closest_marker("on_kernel").kwargs["spec"]
            if number in (0, 5, 9) and kernel in ("6.1", "6.12"):
                Path("/proc/sysrq-trigger").write_text("c")
        """
    )

    result = pytester.runpytest_subprocess(
        *("--kernel", f"6.1,6.12,{no_kernel},7.2", "--junitxml", tmp_path / "junit.xml"),
        timeout=600,
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=24, failed=6, errors=10)
    failures = ET.parse(tmp_path / "junit.xml").findall(".//testcase[failure]")  # noqa: S314
    assert {case.attrib["name"] for case in failures} == {
        f"test_x[{number}-{kernel}]" for number in (0, 5, 9) for kernel in ("6.1", "6.12")
    }
    for case in failures:
        assert "Kernel panic - not syncing: sysrq triggered crash" in (case[-1].text or "")
    result.stdout.fnmatch_lines([f"--kernel {no_kernel}: {no_kernel} is no kernel image: *"])
    # Also the last item, after which its guest is not replaced.
    for number in (0, 5, 9):
        result.stdout.fnmatch_lines(
            [f"differs: *::test_x?{number}?: failed on 6.1, 6.12; passed on 7.2; *"]
        )


@pytest.mark.usefixtures("stored_kernels")
def test_a_panic_in_every_collection_is_an_error_of_each_item(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        from pathlib import Path

        if os.uname().release.startswith("6.1."):
            Path("/proc/sysrq-trigger").write_text("c")

        def test_x(): pass
        def test_y(): pass
        """
    )

    result = pytester.runpytest_subprocess(
        "--kernel", "6.1,6.12", "--max-worker-restart=1", timeout=600
    )

    result.assert_outcomes(passed=2, errors=2)
    result.stdout.re_match_lines(
        [
            r"kernel 6\.1 \(Linux 6\.1\.\S+\) lost 2 workers, and gets no more guests\.",
            r".*Kernel panic - not syncing: sysrq triggered crash",
        ]
    )


@pytest.mark.usefixtures("stored_kernels")
def test_a_kernel_that_does_not_boot_leaves_the_end_of_its_console(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_subprocess(
        *("--kernel", "native,6.1", "--kernel-guest=plain"),
        *("--kernel-append", "rdinit=/nowhere init=/nowhere"),
        timeout=400,
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.re_match_lines(
        [r"kernel 6\.1 \(Linux \S+\) did not boot .*: ", ".*Kernel panic.*"]
    )


@pytest.mark.usefixtures("stored_kernels")
def test_what_hangs_or_panics_fails_alone_whatever_it_is_doing(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    pytester.makepyfile(
        """
        import os, time
        from pathlib import Path
        import pytest

        def panic():
            Path("/proc/sysrq-trigger").write_text("c")

        @pytest.fixture
        def panics_before():
            panic()

        @pytest.fixture
        def panics_after():
            yield
            panic()

        def test_first(panics_before): pass

        def test_sleeps(): time.sleep(1000)

        def test_keeps_the_processor():
            Path("/proc/sys/kernel/sched_rt_runtime_us").write_text("-1")
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
            while True: pass

        def test_works(): pass

        def test_last(panics_after): pass
        """
    )

    result = pytester.runpytest_subprocess(
        "--kernel", "6.1", "--kernel-timeout=2", "--junitxml", tmp_path / "junit.xml", timeout=600
    )

    result.assert_outcomes(passed=2, failed=2, errors=2)
    result.stdout.re_match_lines_random(
        [
            r"kernel 6\.1: the guest .* died in the setup of this test: Kernel panic.* sysrq .*",
            r"kernel 6\.1: the guest .* died in the teardown of this test: Kernel panic.* sysrq .*",
            r"It was killed \d+ s after it began: .*::test_sleeps\[6\.1\] \(--kernel-timeout 2.*",
            r'  File ".*", line \d+, in test_sleeps',
            r"It was killed \d+ s after it began: .*::test_keeps_the_processor\[6\.1\] .*",
            r"Its Python did not answer when asked where it is\.",
        ]
    )


@pytest.mark.usefixtures("stored_kernels")
@pytest.mark.parametrize("kernel", [pytest.param("5.10", marks=long), "7.2"])
def test_a_test_that_ends_its_worker_is_told_so_and_the_others_run(
    pytester: pytest.Pytester, kernel: str
) -> None:
    pytester.makepyfile(
        test_it="""
        import ctypes, os, signal

        def test_faults(): ctypes.string_at(1)

        def test_aborts(): os.abort()

        def test_exits(): os._exit(3)

        def test_is_terminated(): os.kill(os.getpid(), signal.SIGTERM)

        def test_takes_all_memory():
            taken = []
            while True: taken.append(b"x" * (1 << 24))

        def test_closes_all(): os.closerange(0, 1024)

        def test_is_well(): pass

        def test_is_interrupted(): signal.raise_signal(signal.SIGINT)
        """
    )

    result = pytester.runpytest_subprocess(
        "--kernel", kernel, "--max-worker-restart=9", timeout=400
    )

    result.assert_outcomes(passed=1, failed=7)
    where = rf"in the call of this test; the kernel \(Linux {re.escape(kernel)}\.\S+\) is well"
    told = rf"kernel {re.escape(kernel)}: the worker"
    result.stdout.re_match_lines(
        [
            rf"{told} was killed by SIGSEGV {where}",
            "Fatal Python error: Segmentation fault",
            r'  File ".*/test_it.py", line 3 in test_faults',
            rf"{told} was killed by SIGABRT {where}",
            r'  File ".*/test_it.py", line 5 in test_aborts',
            rf"{told} exited with status 3 {where}",
            rf"{told} was killed by SIGTERM {where}",
            rf"{told} was killed by the OOM killer {where}",
            r"Out of memory: Killed process \d+ \(python\S*\) .*",
            rf"{told} closed its connection to pytest {where}",
            rf"{told} was ended by KeyboardInterrupt {where}",
            r'  File ".*/test_it.py", line 19, in test_is_interrupted',
        ]
    )


@long
@pytest.mark.usefixtures("stored_kernels")
def test_a_test_that_ends_its_worker_in_a_plain_guest_is_told_so(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import os

        def test_aborts(): os.abort()

        def test_exits(): os._exit(3)
        """
    )

    result = pytester.runpytest_subprocess("--kernel", "7.2", "--kernel-guest=plain", timeout=400)

    result.assert_outcomes(failed=2)
    where = r"in the call of this test; the kernel \(Linux 7\.2\.\S+\) is well"
    result.stdout.re_match_lines(
        [
            rf"kernel 7\.2: the worker was killed by SIGABRT {where}",
            r'  File ".*/test_it.py", line 3 in test_aborts',
            rf"kernel 7\.2: the worker exited with status 3 {where}",
        ]
    )


@pytest.mark.usefixtures("stored_kernels")
def test_a_test_that_harms_its_process_is_told_so_and_the_others_run(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import os, resource, sys

        FILES = resource.RLIMIT_NOFILE
        before = os.getcwd(), resource.getrlimit(FILES), os.getresuid()

        def test_goes_away(tmp_path): os.chdir(tmp_path)

        def test_lowers_limit(): resource.setrlimit(FILES, (99, 99))

        def test_lowers_recursion(): sys.setrecursionlimit(60)

        def test_forks():
            if child := os.fork():
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1

        def test_is_as_before(): assert (os.getcwd(), resource.getrlimit(FILES)) == before[:2]

        def test_drops_root(): os.setresuid(65534, 65534, 65534)

        def test_is_root(): assert os.getresuid() == before[2] == (0, 0, 0)
        """
    )

    result = pytester.runpytest_subprocess("--kernel", "5.10,7.2", "-rP", timeout=400)

    result.assert_outcomes(passed=14)
    left = "left its process changed:"
    users = f"{left} user ids: 0/0/0 became 65534/65534/65534"
    for kernel in ("5.10", "7.2"):
        dropped = f"{kernel}: test_it.py::test_drops_root[[]{kernel}] {users}"
        returned = f"A child that test_it.py::test_forks[[]{kernel}] forked returned to pytest: *"
        lines = [f"{dropped}; the next tests get a fresh guest", returned]
        result.stdout.fnmatch_lines_random(lines)
    result.stdout.fnmatch_lines_random(
        [
            f"This test {left} working directory: {pytester.path} became *",
            f"This test {left} RLIMIT_NOFILE: * became 99/99",
            f"This test {left} recursion limit: 1000 became 60",
        ]
    )
    assert result.stdout.str().count("the next tests get a fresh guest") == 2


@pytest.mark.usefixtures("stored_kernels")
def test_a_guest_that_is_killed_or_stopped_is_replaced_and_none_outlives_pytest(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.parametrize("way", ["killed", "stopped", "orphaned"])
        def test_is(way): time.sleep(1000)
        """
    )

    with start_pytest("--kernel", "6.1", "--kernel-timeout=2") as run:
        run.read_until("::test_is[killed-6.1]")
        os.kill(run.guest(), signal.SIGKILL)
        # Waits for no result of the test: a warm guest may die in the set-up or in the call.
        run.read_until("replacing crashed worker")
        # A stopped guest neither runs its test nor answers.
        run.read_until("::test_is[stopped-6.1]")
        os.kill(run.guest(), signal.SIGSTOP)
        run.read_until("replacing crashed worker")
        run.read_until("::test_is[orphaned-6.1]")
        guest = run.guest()
        run.process.kill()

        eventually(lambda: not is_running(guest), within=2)

    # The guests' directories are left; the next session removes them.
    assert list(tmp_path.glob("bpflink-*/files/*"))
    pytester.runpytest_subprocess("--collect-only")
    assert list(tmp_path.glob("bpflink-*")) == []


@pytest.mark.usefixtures("stored_kernels")
def test_ctrl_c_ends_guests_at_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import signal, time

        def test_x():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            time.sleep(1000)
        """
    )

    with start_pytest("--kernel", "6.1") as run:
        run.read_until("::test_x[6.1]")
        guest = run.guest()
        os.killpg(run.process.pid, signal.SIGINT)

        assert run.process.wait(timeout=5) == pytest.ExitCode.INTERRUPTED
        assert not is_running(guest)


class Running:
    """A pytest that was started, with one guest."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.said = ""

    def read_until(self, text: str) -> None:
        """Read the output up to TEXT; an item's name is printed before the rest of its line."""
        assert self.process.stdout is not None
        while text not in self.said:
            chunk = os.read(self.process.stdout.fileno(), 4096).decode()
            assert chunk, f"never said {text!r}: {self.said}"
            self.said += chunk
        self.said = self.said.partition(text)[2]

    def guest(self) -> int:
        """Return the process id of its guest."""
        children = children_of(self.process.pid)
        (guest,) = (pid for pid in children if "qemu" in Path(f"/proc/{pid}/comm").read_text())
        return guest


@contextlib.contextmanager
def start_pytest(*arguments: str) -> Iterator[Running]:
    """Start pytest in the current directory, in a process group of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()
