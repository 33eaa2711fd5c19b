"""Sessions of pytest that a fixture runs once, for all tests of a module that look at them.

A session that one test looks at is pytester's.
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
    """Run pytest in a directory, with these variables changed, and with its `tmp_path`s there."""
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
