"""The place where trials run sessions of pytest, and what these leave behind.

All processes of a session are found by a variable of their environment, since those that outlive
their session have no parent that would tell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parent.parent
SELFTESTS = ROOT / "selftests"

_MARK = "BPFLINK_SOAK"

# For a session of a few tests; guests may be saved first, three sessions at a time.
_SECONDS = 300.0

# QEMU dies with its session; the kernel may need a moment.
_GRACE_SECONDS = 5.0

# A session never prints these.
_FAULTS = ("INTERNALERROR", "Traceback (most recent call last)", "PytestUnraisable")


@dataclass
class Run:
    """A session that has ended: how, and what it printed."""

    status: int
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line that says anything."""
        return next((line for line in reversed(self.output.splitlines()) if line.strip()), "")


@dataclass
class Session:
    """A session that runs. Its output goes to a file, so that no full pipe stops it."""

    process: subprocess.Popen[bytes]
    output: Path
    start: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = _SECONDS) -> Run:
        """Wait for the end. After SECONDS the session is killed, and its output says so."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            with self.output.open("a") as output:
                output.write(f"\nsoak: still running after {seconds:.0f} s\n")
        text = self.output.read_text(errors="replace")
        return Run(self.process.returncode, text, time.monotonic() - self.start)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the session's first process only, as a terminal does not."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Stage:
    """A directory for sessions: they have their temporary directory and their outputs in it."""

    def __init__(self, directory: Path, kernels: list[str]) -> None:
        self.directory = directory
        self.kernels = kernels
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self._estates = directory / "estates"
        self._estates.mkdir(mode=0o700)
        self._mark = uuid.uuid4().hex
        self._variables = {
            "TMPDIR": str(self.temporary),
            "BPFLINK_RUN_DIRECTORY": str(self._estates),
            "COLUMNS": "120",
            _MARK: self._mark,
        }
        self._runs = 0

    def start(
        self,
        *arguments: str | Path,
        module: str = "pytest",
        limit: Callable[[], None] | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Session:
        """Start `python -m MODULE`, with these environment VARIABLES; the child calls LIMIT."""
        self._runs += 1
        output = self.directory / f"{self._runs:04}.log"
        options = ("-p", "no:cacheprovider") if module == "pytest" else ()
        with output.open("wb") as file:
            file.write(f"$ python -m {module} {' '.join(map(str, arguments))}\n".encode())
            file.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", module, *options, *map(str, arguments)],
                cwd=self.directory,
                env=os.environ | self._variables | dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Whoever interrupts the soak does not interrupt its sessions, which `close` ends.
                start_new_session=True,
                preexec_fn=limit,  # noqa: PLW1509 (no threads here)
            )
        return Session(process, output)

    def run(
        self,
        *arguments: str | Path,
        module: str = "pytest",
        limit: Callable[[], None] | None = None,
        seconds: float = _SECONDS,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> Run:
        """`start` a session and wait for its end."""
        return self.start(*arguments, module=module, limit=limit, variables=variables).wait(seconds)

    def left(self) -> list[str]:
        """Return a sentence for each thing that ended sessions left: processes, mounts, cgroups."""
        deadline = time.monotonic() + _GRACE_SECONDS
        while (processes := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        found = [f"process {pid} is left: {name}" for pid, name in processes.items()]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"a mount is left: {line}" for line in mounts if str(self.directory) in line]
        return found

    def left_unswept(self) -> list[str]:
        """Return `left`, and what a later session should have removed."""
        # Scratch directories, and the estates that name a session's mounts, cgroups and pins.
        owners = [*self.temporary.rglob("owner"), *self._estates.rglob("owner")]
        return [*self.left(), *(f"a directory is left: {owner.parent}" for owner in owners)]

    def processes(self) -> dict[int, str]:
        """Return the processes of sessions, by id, with their commands."""
        mark = f"{_MARK}={self._mark}".encode()
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(path.name)] = command.decode(errors="replace")[:100]
        return found

    def close(self) -> None:
        """End all processes of sessions, and remove the temporary directory."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)


def faults(run: Run) -> list[str]:
    """Return what no session may print, whatever was done to it."""
    return [f"the session printed {fault!r}" for fault in _FAULTS if fault in run.output]


def green(run: Run, *, passed: int | None = None) -> list[str]:
    """Return why a session did not pass as it should, with as many tests."""
    if run.status:
        return [*faults(run), f"exit status {run.status}: {run.last_line}"]
    if passed is not None and f" {passed} passed" not in run.last_line:
        return [*faults(run), f"{passed} tests should have passed: {run.last_line}"]
    return faults(run)
