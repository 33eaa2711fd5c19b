"""The identity of a file: whether it is the same file, with the same content, as before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def identity(path: str | Path) -> list[int]:
    """Return numbers that change on every write (st_ctime cannot be set back)."""
    stat = os.stat(path)
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
