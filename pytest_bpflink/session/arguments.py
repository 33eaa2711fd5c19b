"""Values of arguments that pytest's options and the `bpflink` command have both."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def writable_directory(value: str) -> Path:
    """Take a directory that this user may write to; raises ArgumentTypeError."""
    directory = Path(value).expanduser().resolve()
    if not directory.exists():
        raise argparse.ArgumentTypeError(f"{value} is not there: mkdir -p {directory}")
    if not directory.is_dir():
        raise argparse.ArgumentTypeError(f"{value} is no directory")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"{value} can't be written to by this user")
    if directory == Path("/"):
        raise argparse.ArgumentTypeError("/ has all there is: name a directory in it")
    return directory
