"""The kernel's log of a test is attached to its failure, and a splat in it is an error.

This kernel is shared. So the lines in its log are harmless: the kernel logs them about mounts that
it refuses, and only the sessions under test take some of them for splats.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.system import kernel_log
from tests.support.sessions import run_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# `say(text)` makes the kernel log a line; these sessions take lines with "splat" for splats.
CONFTEST = """
import ctypes, re
from pytest_bpflink.vm.machines import console

console._SPLAT = re.compile(r"{word}-splat")

def say(text):
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"none", {place!r}, b"tmpfs", 0, b"{word}-" + text.encode()) == -1
"""

PREAMBLE = """
import os, subprocess, sys, time
from pathlib import Path
import pytest
from conftest import console, say

pytestmark = pytest.mark.usefixtures("_bpf_privileges")
"""


class Log:
    """The lines that sessions in a directory make the kernel log, and their output about them."""

    def __init__(self, directory: Path) -> None:
        self._word = f"bpflink{secrets.token_hex(4)}"
        text = CONFTEST.format(word=self._word, place=os.fsencode(directory))
        (directory / "conftest.py").write_text(text)

    def said(self, result: pytest.RunResult) -> str:
        """Return a session's output, with logged lines reduced to the text given to `say`."""
        output = result.stdout.str() + result.stderr.str()
        return output.replace(f"tmpfs: Unknown parameter '{self._word}-", "'")


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., str]:
    """Return a function that runs tests in another session, and returns its output."""
    log = Log(pytester.path)

    def run(tests: str, *arguments: str) -> str:
        pytester.makepyfile(PREAMBLE + tests)
        return log.said(pytester.runpytest_subprocess(*arguments, timeout=100))

    return run


SPLATS = """
def test_before(): say("early")

def test_fails():
    say("during the test")
    assert False, "its own reason"

def test_splats(): say("splat 1"); say("after it")

def test_between(): pass

@pytest.fixture
def says_in_setup():
    say("splat 2")

def test_of_setup(says_in_setup): pass

@pytest.fixture
def says_in_teardown():
    yield
    say("splat 3")

def test_of_teardown(says_in_teardown): pass

@pytest.fixture
def breaks_in_teardown():
    yield
    say("splat of a broken fixture")
    raise RuntimeError

def test_breaks(breaks_in_teardown): pass

def test_fails_and_splats():
    say("splat 4")
    assert False, "its own reason"

@pytest.mark.xfail(strict=True)
def test_is_meant_to_fail():
    say("splat 5")
    assert False

def test_skips():
    say("splat 6")
    pytest.skip("for some reason")

@pytest.mark.allow_dmesg("no such", "splat [0-9]")
def test_allows(): say("splat 7")

@pytest.mark.allow_dmesg("no such")
def test_allows_another(): say("splat 8")

def test_writes_itself():
    with open("/dev/kmsg", "w") as log:
        print(console._SPLAT.pattern, file=log)

def test_after(): pass
"""


class Splats:
    """The session that ran SPLATS."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.failures = _by_test(output)
        summary = output.partition("short test summary info")[2]
        self._outcomes = re.findall(r"^([A-Z]+) \S+::(\w+)", summary, re.MULTILINE)

    def outcomes(self, test: str) -> list[str]:
        """Return the outcomes of a test, that of its call first."""
        return [outcome for outcome, name in self._outcomes if name == test]


def test_session_that_a_worker_s_test_starts_has_no_siblings(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")

    output = run('def test_splats(): say("splat 1")')

    assert "The kernel logged this while this test ran, in an unnamed process:\n" in output


@pytest.fixture(scope="module")
def splats(tmp_path_factory: pytest.TempPathFactory) -> Splats:
    """Run tests during which the kernel logs lines: in each phase, and with each outcome."""
    directory = tmp_path_factory.mktemp("splats")
    log = Log(directory)
    (directory / "test_splats.py").write_text(PREAMBLE + SPLATS)
    # The summary lists outcomes in this order.
    return Splats(log.said(run_session(directory, "-rpxfE")))


def test_splat_fails_its_test(splats: Splats) -> None:
    assert splats.outcomes("test_splats") == ["FAILED"]
    assert re.search(
        r"^'splat 1'\nThe kernel logged this while this test ran, in an unnamed process:\n"
        r"\[ *\d+\.\d{6}\] 'splat 1'\n",
        splats.failures["test_splats"],
        re.MULTILINE,
    )


@pytest.mark.parametrize("test", ["test_before", "test_between", "test_after"])
def test_splat_does_not_fail_the_tests_around_it(splats: Splats, test: str) -> None:
    assert splats.outcomes(test) == ["PASSED"]


@pytest.mark.parametrize(
    ("test", "outcomes"), [("test_of_setup", ["ERROR"]), ("test_of_teardown", ["PASSED", "ERROR"])]
)
def test_splat_in_a_fixture_is_an_error(splats: Splats, test: str, outcomes: list[str]) -> None:
    assert splats.outcomes(test) == outcomes


@pytest.mark.parametrize(
    ("test", "outcomes"),
    [
        ("test_fails_and_splats", ["FAILED", "ERROR"]),
        ("test_is_meant_to_fail", ["XFAIL", "ERROR"]),
        # The summary does not name a test that was skipped.
        ("test_skips", ["ERROR"]),
    ],
)
def test_splat_in_a_test_that_does_not_pass_is_an_error_beside_its_outcome(
    splats: Splats, test: str, outcomes: list[str]
) -> None:
    assert splats.outcomes(test) == outcomes


def test_splat_replaces_no_other_failure(splats: Splats) -> None:
    assert "its own reason" in splats.failures["test_fails_and_splats"]
    assert "RuntimeError" in splats.failures["test_breaks"]
    assert "'splat of a broken fixture'" in splats.failures["test_breaks"]
    assert splats.outcomes("test_breaks") == ["PASSED", "ERROR"]


def test_splat_that_the_mark_allows_is_none(splats: Splats) -> None:
    assert splats.outcomes("test_allows") == ["PASSED"]
    assert splats.outcomes("test_allows_another") == ["FAILED"]


def test_line_that_a_process_wrote_is_no_splat(splats: Splats) -> None:
    assert splats.outcomes("test_writes_itself") == ["PASSED"]


def test_failure_has_the_lines_that_were_logged_during_its_test(splats: Splats) -> None:
    failure = splats.failures["test_fails"]
    assert splats.outcomes("test_fails") == ["FAILED"]
    assert "its own reason" in failure
    assert re.search(r"-- Kernel log --+\n\[ *\d+\.\d{6}\] 'during the test'\n", failure)
    assert "early" not in splats.output


def test_splats_are_warned_of_or_not_looked_for(run: Callable[..., str]) -> None:
    test = "def test_it(): say('splat'); say('more')"
    warned = run(test, "--bpf-dmesg=warn")
    assert "1 passed, 1 warning" in warned
    assert "SplatWarning: 'splat'" in warned
    assert "1 passed in" in run(test, "--bpf-dmesg=off")
    assert "1 passed in" in run(test, "-o", "bpflink_dmesg=off")
    assert "bpflink_dmesg = yes: choose from error, warn, off" in run(
        test, "-o", "bpflink_dmesg=yes"
    )


def test_mark_needs_a_regular_expression(run: Callable[..., str]) -> None:
    output = run("@pytest.mark.allow_dmesg('(')\ndef test_it(): pass")
    assert "allow_dmesg('('): no regular expression: missing ), unterminated" in output
    output = run("@pytest.mark.allow_dmesg\ndef test_it(): pass")
    assert "allow_dmesg: give it a regular expression of what may be logged" in output


PARALLEL = """
from pytest_bpflink import eventually

def meet(name, others):
    Path(name).touch()
    eventually(lambda: all(Path(each).exists() for each in others), within=20)

def test_one():
    meet("one", ["two"])
    {what}
    meet("said", ["seen"])

def test_after(): pass

def test_two():
    meet("two", ["one"])
    meet("seen", ["said"])

def test_after_all(): pass
"""


def test_splat_of_no_process_fails_all_tests_that_ran_then(run: Callable[..., str]) -> None:
    output = run(PARALLEL.format(what='say("splat")'), "-n2")
    assert "2 failed, 2 passed" in output
    sentence = "any of the tests that ran then may have caused it, so each fails"
    failures = _by_test(output)
    assert set(failures) == {"test_one", "test_two"}
    assert all(sentence in each for each in failures.values())
    shared = output.partition(" kernel log ====")[2].splitlines()[1:4]
    assert shared[0] == "'splat': these tests ran then:"
    assert {line.partition("::")[2] for line in shared[1:]} == {"test_one", "test_two"}


def test_splat_in_a_workers_process_is_its_own(run: Callable[..., str]) -> None:
    output = run(PARALLEL.format(what='say(f"splat PID: {os.getpid()} Comm")'), "-n2")
    assert "1 failed, 3 passed" in output
    failures = _by_test(output)
    assert set(failures) == {"test_one"}
    assert re.search(r"while this test ran, in process \d+:", failures["test_one"])


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["here", "dealt-out"])
def test_splat_after_a_test_is_an_error_of_that_test(
    run: Callable[..., str], arguments: tuple[str, ...]
) -> None:
    output = run(
        """
def test_one(request):
    class Late:
        def pytest_runtest_logfinish(self, nodeid):
            if "test_one" in nodeid or "test_last" in nodeid:
                say("splat")
    request.config.pluginmanager.register(Late())

def test_two(): pass

def test_last(): pass
        """,
        *arguments,
    )
    assert "3 passed, 2 errors" in output
    failures = _by_test(output)
    assert set(failures) == {"test_one", "test_last"}
    assert all("after this test, before another" in each for each in failures.values())


@pytest.mark.parametrize("end", ["assert False", "os.kill(os.getpid(), 2)"], ids=["-x", "Ctrl-C"])
def test_splat_in_a_test_that_ends_the_session(run: Callable[..., str], end: str) -> None:
    output = run(f"def test_it(): say('splat'); {end}\ndef test_after(): pass", "-x")
    assert "1 error" in output
    assert "ERROR at teardown of test_it" in output


def test_unreadable_log_is_reported_once(pytester: pytest.Pytester) -> None:
    """Without CAP_SYSLOG."""
    pytester.makepyfile("def test_it(cgroup_factory): pass")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-syslog", "--inh-caps=-syslog", sys.executable, "-m", "pytest"],
        capture_output=True,
        text=True,
        check=False,
        cwd=pytester.path,
    )
    if "kernel log" not in done.stdout:
        pytest.skip("this kernel shows its log to everybody")
    assert "1 passed" in done.stdout
    assert done.stdout.count("bpflink: kernel log unreadable (EPERM)") == 1


def test_lost_lines_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel has overwritten unread lines, reading goes on with the others."""
    answers: list[bytes | OSError] = [
        BrokenPipeError(errno.EPIPE, "overwritten"),
        b"4,12,1500000,-;WARNING: one\\x0atwo\n SUBSYSTEM=none\n",
        b"12,13,2500000,-,caller=T7;a process: WARNING: no\n",
        BlockingIOError(errno.EAGAIN, "no more"),
    ]
    log = kernel_log.KernelLog()

    def answer(_fd: int, _size: int) -> bytes:
        following = answers.pop(0)
        if isinstance(following, OSError):
            raise following
        return following

    with monkeypatch.context() as patched:
        patched.setattr(log, "_news", SimpleNamespace(poll=lambda _: answers))
        patched.setattr(os, "read", answer)
        lines = log.read()
    log.close()
    assert [str(line) for line in lines][1:] == [
        "[    1.500000] WARNING: one",
        "[    1.500000] two",
        "[    2.500000] a process: WARNING: no",
    ]
    assert lines[0].text == "(lines were lost here: the kernel's log was full)"
    (splat,) = kernel_log.splats(lines)
    assert (splat.number, splat.head, splat.pid) == (12, "WARNING: one", None)


def _by_test(output: str) -> dict[str, str]:
    """Return all that is printed about each test that failed or had an error."""
    parts = re.split(
        r"^_{3,} (?:ERROR at (?:setup|teardown) of )?(\w+)(?:\[.*\])? _{3,}$",
        output.partition("short test summary")[0],
        flags=re.MULTILINE,
    )
    told: dict[str, str] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        told[name] = told.get(name, "") + text
    return told
