"""One run of a test on one kernel, by pytest as a user would call it, and the test's outcome.

Knows JUnit's files, which every pytest can write. Each run has a process of its own, so that
nothing that a plugin or a test leaves in a process can change the next outcome.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from pytest_bpflink.commands.output import CommandError
from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.kernels import KernelError
from pytest_bpflink.vm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# pytest's exit statuses if it ran tests.
_RAN = (0, 1)
_NOTHING_COLLECTED = 5

_NO_GUEST = re.compile(r"did not boot|could not be started")

_LINES_SHOWN = 15

# How long an interrupted pytest may take to end guests and fixtures.
_ENDING_SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of a test, or of several; two are equal if each test has the same in both."""

    tests: tuple[tuple[str, str], ...]
    release: str = field(default="", compare=False)
    reason: str = field(default="", compare=False)
    ran: bool = field(default=True, compare=False)

    @property
    def summary(self) -> str:
        """The outcome in a word if it is of one test, else how many tests have which outcome."""
        if not self.ran:
            return "left out"
        counts = Counter(outcome for _, outcome in self.tests)
        if len(self.tests) == 1:
            return next(iter(counts))
        return ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))


class Trial:
    """A test, to be run on several kernels."""

    def __init__(self, test: str, options: Sequence[str]) -> None:
        self._test = test
        self._options = options

    def outcome(self, spec: str, progress: Callable[[str], None]) -> Outcome:
        """Run the test on a kernel, fetched if needed. Raises `CommandError` if pytest can't."""
        try:
            kernel = kernels.find(spec, progress=progress)
        except KernelError as error:
            return Outcome((), reason=str(error), ran=False)
        progress(f"{spec}: running {self._test}")
        with Scratch() as scratch:
            file = scratch.path / "junit.xml"
            done = _run(
                *(sys.executable, "-m", "pytest", self._test, *self._options),
                *("--kernel", spec, f"--junitxml={file}"),
            )
            if done.returncode not in _RAN or not file.exists():
                raise CommandError(self._complaint(done))
            found = list(_read(file, kernel.id))
        if not found:
            raise CommandError(self._complaint(done))
        reason = next((reason for _, _, reason in found if reason), "")
        return Outcome(
            tuple(sorted((name, outcome) for name, outcome, _ in found)),
            release=kernel.release,
            reason=reason,
            ran=not any(outcome == "error" and _NO_GUEST.search(why) for _, outcome, why in found),
        )

    def _complaint(self, done: subprocess.CompletedProcess[str]) -> str:
        if done.returncode == _NOTHING_COLLECTED:
            what = f"pytest finds no test {self._test}"
        else:
            what = f"pytest did not run {self._test} (its exit status is {done.returncode})"
        said = (done.stdout + done.stderr).strip().splitlines()[-_LINES_SHOWN:]
        return "\n".join([f"{what}:", *said])


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run pytest; if this process is interrupted, interrupt pytest and let it clean up."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The terminal's Ctrl-C then reaches this process only, which sends SIGINT to pytest once: a
        # pytest that gets a second one leaves things behind.
        process_group=0,
    ) as process:
        try:
            said = process.communicate()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_ENDING_SECONDS)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, *said)


def _read(file: Path, kernel_id: str) -> Iterator[tuple[str, str, str]]:
    """Yield each test's name without the kernel's id, its outcome, and why it did not pass."""
    cases = list(ET.parse(file).getroot().iter("testcase"))  # noqa: S314 (pytest's own)
    # If the configuration names further kernels, the file has tests on those, too.
    ours = [case for case in cases if case.get("name", "").endswith(f"{kernel_id}]")] or cases
    for case in ours:
        name = re.sub(rf"(?:\[|-){re.escape(kernel_id)}\]$", "", case.get("name", ""))
        full = f"{case.get('classname', '')}.{name}"
        # The worst outcome first: a test that passed, but failed in its teardown, is an error.
        for tag, outcome in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
            told = case.find(tag)
            if told is not None:
                yield full, outcome, told.get("message", "")
                break
        else:
            yield full, "passed", ""
