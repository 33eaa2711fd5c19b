"""The daemon under test: tests start, ask and kill it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from pytest_bpflink import BpfFs, Cgroup

BUILD = Path(__file__).parents[1] / "build"


class Daemon:
    """A process of egress-counter, for one cgroup and with one directory for pins."""

    def __init__(self, program: Path, cgroup: Cgroup, pins: BpfFs) -> None:
        self._program = program
        self._cgroup = cgroup
        self._pins = pins
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        """Start the daemon, and wait until it counts."""
        self._process = subprocess.Popen(
            [self._program, "run", BUILD / "counter.bpf.o", self._cgroup, self._pins],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"
        return self

    def kill(self) -> None:
        """Kill the daemon as a crash would: it can't clean up."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def count(self) -> int:
        """Return what `egress-counter show` prints."""
        return int(self._call("show", self._pins))

    def stop(self) -> None:
        """Stop counting for good."""
        self._call("stop", self._pins)
        self.kill()

    def _call(self, *arguments: str | os.PathLike[str]) -> str:
        return subprocess.check_output([self._program, *arguments], text=True)


@pytest.fixture
def daemon(request: pytest.FixtureRequest, cgroup: Cgroup, bpffs: BpfFs) -> Iterator[Daemon]:
    """Return a daemon that is not started yet; it is killed after the test."""
    program = BUILD / getattr(request, "param", "egress-counter")
    assert program.exists(), "run make first"
    daemon = Daemon(program, cgroup, bpffs)
    yield daemon
    daemon.kill()
