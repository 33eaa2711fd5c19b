"""Small files of procfs, read after each test: without what `open` does beyond reading."""

from __future__ import annotations

import os


def read(path: str) -> bytes:
    """Return what is in a file, up to 4096 bytes. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
