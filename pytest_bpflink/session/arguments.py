"""Argument types that pytest's options and the `bpflink` command share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

# In MiB. Emulated guests of Linux 5.10 and 7.2 panic while they boot with 192, and run tests with
# 224; 6.x needs no more.
_LEAST_MEMORY = 224


def guest_memory(value: str) -> int:
    """Return an amount of memory in MiB. Raises ArgumentTypeError if no guest boots with it."""
    try:
        chosen = int(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is no whole number") from None
    if chosen < _LEAST_MEMORY:
        raise argparse.ArgumentTypeError(
            f"{value} MiB is too little: a guest needs {_LEAST_MEMORY} MiB to boot"
        )
    return chosen


def writable_directory(value: str) -> Path:
    """Return a directory that this user may write to. Raises ArgumentTypeError for any other."""
    directory = Path(os.path.expanduser(value)).resolve()
    if not directory.exists():
        raise argparse.ArgumentTypeError(f"{value} does not exist: mkdir -p {directory}")
    if not directory.is_dir():
        raise argparse.ArgumentTypeError(f"{value} is no directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{value} can't be written to by this user")
    if directory == Path("/"):
        raise argparse.ArgumentTypeError("/ would share the whole host: name a directory in it")
    return directory
