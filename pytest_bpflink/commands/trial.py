"""One run of a test on one kernel, by pytest as a user would call it, and what came of it.

Knows JUnit's files, which every pytest writes. A process of its own for each run: what a plugin or
a test leaves behind in a process must not decide the next outcome.
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

# pytest's exit statuses that say that tests were run.
_RAN = (0, 1)
_NOTHING_COLLECTED = 5

_NO_GUEST = re.compile(r"did not boot|could not be started")

_LINES_SHOWN = 15

# What pytest has for ending guests and fixtures once it is interrupted.
_ENDING_SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """What came of a test, or of several; equal if each came out alike."""

    tests: tuple[tuple[str, str], ...]
    release: str = field(default="", compare=False)
    reason: str = field(default="", compare=False)
    ran: bool = field(default=True, compare=False)

    @property
    def summary(self) -> str:
        """In a word for one test: passed, failed, error, skipped; else how many of each."""
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
        """Run it on a kernel, fetched if need be. Raises `CommandError` if pytest runs nothing."""
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
    """Run pytest; where this is interrupted, let it clean up after itself."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The terminal's Ctrl-C reaches this process alone, which passes it on: pytest that gets a
        # second one leaves things behind.
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
    """Yield each test's name, less the kernel's id, its outcome, and why it is no pass."""
    cases = list(ET.parse(file).getroot().iter("testcase"))  # noqa: S314 (pytest's own)
    # Others than this kernel's, where the configuration names some.
    ours = [case for case in cases if case.get("name", "").endswith(f"{kernel_id}]")] or cases
    for case in ours:
        name = re.sub(rf"(?:\[|-){re.escape(kernel_id)}\]$", "", case.get("name", ""))
        full = f"{case.get('classname', '')}.{name}"
        # The worst first: a test that passed and failed in teardown is an error.
        for tag, outcome in (("error", "error"), ("failure", "failed"), ("skipped", "skipped")):
            told = case.find(tag)
            if told is not None:
                yield full, outcome, told.get("message", "")
                break
        else:
            yield full, "passed", ""
