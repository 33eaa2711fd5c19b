"""A guest that hangs says where its Python is, and is killed; a fresh one runs the rest."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.matrix.controller.watchdog import Limits, Watchdog
from pytest_bpflink.session.kernel import MatrixKernel
from tests.support.fake_guests import booted

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., pytest.RunResult]

# For emulated guests, which the fakes claim to be, the limit is 5 times as long: 1.5 s.
SHORT = "--kernel-timeout=0.3"

HANGS = """
    import ctypes, os, signal, time
    import pytest

    def wait_for_ever(): {hang}

    def test_before(): pass

    def test_hangs(request):
        if "native" not in request.node.name:
            wait_for_ever()

    def test_after(): pass
"""


def test_a_test_that_hangs_fails_with_its_stack_and_the_rest_goes_on(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(HANGS.format(hang="time.sleep(60)"))

    result = with_fakes("--kernel", "good,native", SHORT)

    result.assert_outcomes(passed=5, failed=1)
    assert booted(pytester.path) == ["good", "good"]
    result.stdout.fnmatch_lines(
        [
            "*___ test_hangs?good? ___*",
            "kernel good: the guest (Linux *) died in the call of this test.",
            "It was killed 2 s after it began: *::test_hangs?good? (--kernel-timeout 0.3, and 5*",
            "Its Python was here:",
            '  File "*", line *, in test_hangs',
            "    wait_for_ever()",
            '  File "*", line *, in wait_for_ever',
            "*time.sleep(60)*",
            "Its console says nothing.",
        ]
    )
    result.stdout.no_fnmatch_line("*_pytest*")


@pytest.mark.parametrize(
    "hang",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGSTOP)", id="stopped"),
        pytest.param("ctypes.PyDLL(None).sleep(60)", id="keeps-the-gil"),
    ],
)
def test_a_guest_that_does_not_answer_is_killed_too(
    pytester: pytest.Pytester,
    with_fakes: Run,
    monkeypatch: pytest.MonkeyPatch,
    hang: str,
) -> None:
    monkeypatch.setenv("FAKE_GUEST_LIMITS", "answer=0.5")
    pytester.makepyfile(HANGS.format(hang=hang))

    result = with_fakes("--kernel", "good", SHORT)

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["Its Python did not answer when asked where it is."])


@pytest.mark.parametrize(
    ("limit", "hook", "expected"),
    [
        ("collection=0.3", "pytest_collection_modifyitems", {"passed": 2}),
        ("connecting=0.6", "pytest_configure", {"passed": 2}),
        # A hang between tests is reported as an error of the test before.
        ("shutdown=0.3", "pytest_sessionfinish", {"passed": 2, "errors": 1}),
    ],
)
def test_connecting_collecting_and_ending_have_deadlines(
    pytester: pytest.Pytester,
    with_fakes: Run,
    monkeypatch: pytest.MonkeyPatch,
    *,
    limit: str,
    hook: str,
    expected: dict[str, int],
) -> None:
    monkeypatch.setenv("FAKE_GUEST_LIMITS", limit)
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass")
    pytester.makeconftest(
        f"""
        import os, time
        from pathlib import Path

        def {hook}():
            if os.environ.get("FAKE_GUEST_CONSOLE") and not Path("hung").exists():
                Path("hung").touch()
                time.sleep(60)
        """
    )

    result = with_fakes("--kernel", "good")

    result.assert_outcomes(**expected)
    assert (pytester.path / "hung").exists()


def test_a_guest_that_hangs_in_every_collection_leaves_errors_that_say_so(
    pytester: pytest.Pytester, with_fakes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GUEST_LIMITS", "collection=0.2")
    pytester.makepyfile(
        """
        import os, time

        if os.environ.get("FAKE_GUEST_CONSOLE"):
            time.sleep(60)

        def test_x(): pass
        """
    )

    result = with_fakes("--kernel", "good,native", "--max-worker-restart", "1")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*lost 2 workers*",
            "It was killed 1 s after it began: collecting tests *",
            "*time.sleep(60)",
        ]
    )


def test_a_guest_that_never_answers_execnet_is_given_up(
    pytester: pytest.Pytester, with_fakes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GUEST_LIMITS", "connecting=0.1")
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", "mute", "--max-worker-restart", "1")

    result.assert_outcomes(errors=1)
    assert booted(pytester.path) == ["mute", "mute"]
    result.stdout.fnmatch_lines(["*It was killed * after it began: starting pytest*"])


def test_the_limit_is_for_each_test_and_not_for_all(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest, time

        @pytest.mark.parametrize("n", range(4))
        def test_x(n): time.sleep(0.6)
        """
    )

    with_fakes("--kernel", "good", SHORT).assert_outcomes(passed=4)

    assert booted(pytester.path) == ["good"]


def test_a_timeout_of_0_sets_no_limit(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("import time\ndef test_x(): time.sleep(1)")

    with_fakes("--kernel", "good", "--kernel-timeout", "0").assert_outcomes(passed=1)


def test_the_others_go_on_while_a_guest_boots_again(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest
        from pathlib import Path
        from fake_guests import booted, panic
        from pytest_bpflink import eventually

        @pytest.mark.parametrize("n", range(6))
        def test_x(n, request):
            kernel = request.node.name.partition("-")[2].rstrip("]")
            if kernel == "slow" and n == 1:
                panic("here")
            with Path(kernel).open("a") as times:
                times.write(f"{time.monotonic()}\\n")
            # The other one is not through before the panic.
            if kernel == "good" and n == 1:
                eventually(lambda: len(booted()) == 3, within=30)
        """
    )

    result = with_fakes("--kernel", "slow,good", SHORT)

    result.assert_outcomes(passed=11, failed=1)
    slow, good = (
        [float(line) for line in (pytester.path / name).read_text().split()]
        for name in ("slow", "good")
    )
    assert len(slow) == 5
    assert max(good) < slow[1]


def test_a_guest_that_still_boots_at_the_end_is_not_waited_for(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest
        from pathlib import Path
        from fake_guests import booted, panic
        from pytest_bpflink import eventually

        @pytest.mark.parametrize("n", range(6))
        def test_x(n, request):
            if n == 0 and "slow" in request.node.name:
                panic("here")
            if n == 1:
                eventually(lambda: len(booted()) == 3, within=30)
            Path("stopped").write_text(f"{time.time()}")
            assert n != 1
        """
    )

    result = with_fakes("--kernel", "slow,good", "--maxfail", "2")

    assert result.parseoutcomes()["failed"] == 2
    # The machine takes 2 s to boot.
    assert time.time() - float((pytester.path / "stopped").read_text()) < 1.8
    result.stdout.fnmatch_lines(["*stopping after 2 failures*"])


def test_a_guest_that_hangs_between_items_is_killed(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass\ndef test_y(): pass\ndef test_z(): pass")
    pytester.makeconftest(
        """
        import os, time
        from pathlib import Path

        def pytest_runtest_protocol(item):
            if item.name.startswith("test_y") and not Path("hung").exists():
                Path("hung").touch()
                time.sleep(60)
        """
    )

    result = with_fakes("--kernel", "good", SHORT)

    # The hang is reported as an error of the test before.
    result.assert_outcomes(passed=3, errors=1)
    assert booted(pytester.path) == ["good", "good"]


def test_a_guest_that_knows_what_to_do_next_has_a_deadline_between_items() -> None:
    class Guest:
        kernel = MatrixKernel("6.1", "6.1")
        verdict = ""
        killed = threading.Event()

        def kill(self) -> None:
            self.killed.set()

    guest = Guest()

    def ignore(*_: object, **__: object) -> None: ...

    node: Any = SimpleNamespace(putevent=ignore, sendcommand=ignore, shutting_down=False)
    watchdog = Watchdog(Limits(test=0.1, connecting=60, collection=60, shutdown=60, answer=0.1))
    watchdog.connecting(guest)
    watchdog.connected(guest, node, ask=lambda: None)

    node.putevent(("collectionfinish", {}))
    node.sendcommand("runtests", indices=[0, 1, 2])
    node.putevent(("logstart", {"nodeid": "test_x"}))
    node.putevent(("runtest_protocol_complete", {}))

    assert guest.killed.wait(60)
    watchdog.stop()
    assert "beginning a test" in guest.verdict
