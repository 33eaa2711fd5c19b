"""Where a session's commands run: each has its output in a file, and must pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parent.parent
SELFTESTS = ROOT / "selftests"

# The port of the kernel's own selftests of links, and what ends a link's life.
LIFE = tuple(
    SELFTESTS / f"test_{name}.py" for name in ("link_pinning", "cgroup_link", "link_lifetime")
)

# What the conformance suite asks links of every type: does the program run while the link is held?
EACH_TYPE = f"{SELFTESTS}/conformance/test_conformance_holding.py::test_runs_while_held"

_COUNTS = re.compile(r"(\d+) (passed|skipped|failed|error|xfailed|xpassed)")


class SessionError(Exception):
    """A session went wrong; the text says how, and where its output is."""


@dataclass(frozen=True)
class Counts:
    """How the tests of a run of pytest ended."""

    passed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.passed + other.passed, self.skipped + other.skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed{skipped}"


class Stage:
    """Runs the commands of one session, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._runs = 0

    def run(
        self,
        *command: str | Path,
        seconds: float,
        variables: Mapping[str, str] = MappingProxyType({}),
        cwd: Path = ROOT,
    ) -> str:
        """Run COMMAND, which may take so many SECONDS, and return its output.

        Raises:
            SessionError: It failed, or took longer.

        """
        self._runs += 1
        log = self.directory / f"{self._runs:02}.log"
        words = [str(word) for word in command]
        with log.open("wb") as file:
            file.write(f"$ {' '.join(words)}\n".encode())
            file.flush()
            status: int | str
            try:
                status = subprocess.run(
                    words,
                    cwd=cwd,
                    env=os.environ | dict(variables),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=seconds,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                status = f"still running after {seconds:.0f} s"
        output = log.read_text(errors="replace")
        if status:
            end = "\n".join(f"    {line}" for line in output.splitlines()[-30:])
            raise SessionError(f"{' '.join(words)[:200]}: status {status}\n{end}\nAll of it: {log}")
        return output

    def packages(self, *names: str) -> None:
        """Install Debian packages that are missing."""
        self.run("tools/prepare", *names, seconds=1200)

    def pytest(
        self,
        *arguments: str | Path,
        seconds: float = 900,
        variables: Mapping[str, str] = MappingProxyType({}),
        reasons: str = "",
    ) -> Counts:
        """Run pytest, in which at least one test must pass and none may fail.

        The reason of each skip must have the text REASONS.
        """
        command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments)
        output = self.run(*command, seconds=seconds, variables=variables)
        require_reasons(output, reasons)
        return counts(output)


def counts(output: str) -> Counts:
    """Return the counts that pytest's last line tells.

    Raises:
        SessionError: No test passed, or one failed.

    """
    last = next((line for line in reversed(output.splitlines()) if _COUNTS.search(line)), "")
    found = {outcome: int(number) for number, outcome in _COUNTS.findall(last)}
    if not found.get("passed") or found.keys() - {"passed", "skipped", "xfailed"}:
        raise SessionError(f"not as it should be: {last or output[-500:]}")
    return Counts(found["passed"], found.get("skipped", 0))


def require_reasons(output: str, text: str) -> None:
    """Raise SessionError if pytest's output shows a skip whose reason lacks a text."""
    for line in output.splitlines():
        if line.startswith("SKIPPED [") and text not in line:
            raise SessionError(f"skipped for another reason than {text!r}: {line}")
