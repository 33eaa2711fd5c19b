"""Runs the installed `bpflink` command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Enough for a guest that is saved first, and emulated beside others.
_SECONDS = 300.0

BPFLINK = str(Path(sys.executable).parent / "bpflink")


def bpflink(
    *arguments: str | Path, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, with these environment variables added."""
    return subprocess.run(
        [BPFLINK, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
        env=os.environ | {"COLUMNS": "200"} | environment,
    )


def table_of(output: str) -> list[list[str]]:
    """Return the rows of the first table in an output, without its head."""
    lines = output.splitlines()
    (rule,) = (at for at, line in enumerate(lines) if line.startswith("──"))
    rows: list[Any] = [line.split() for line in lines[rule + 1 :] if line.strip()]
    return rows
