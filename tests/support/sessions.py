"""Runs a session of pytest once, in a fixture, for all tests of a module that look at it.

Tests that need a session for themselves use `pytester`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


def run_session(
    directory: Path, *arguments: str | Path, timeout: float = 100, **environment: str
) -> pytest.RunResult:
    """Run pytest in a directory, which also has its `tmp_path`s, with these variables added."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--basetemp", directory / "basetemp", *arguments],
        cwd=directory,
        env=os.environ | {"PY_COLORS": "0"} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    lines = (done.stdout.splitlines(), done.stderr.splitlines())
    return pytest.RunResult(done.returncode, *lines, time.monotonic() - start)
