"""Argument types that pytest's options and the `bpflink` command share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


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
