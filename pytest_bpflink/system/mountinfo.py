"""The mounts that a process sees: `/proc/PID/mountinfo` (proc(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Mount:
    """A mount: where it is, and which directory of which file system it shows."""

    path: Path
    root: Path
    device: str
    """Major and minor number, another for each instance of a file system."""


def mounted(file_system: str, pid: int | str = "self") -> Iterator[Mount]:
    """Yield the mounts of a type of file system, such as `bpf` or `cgroup2`, that a process sees.

    Raises `OSError` for another process that is gone or may not be looked into.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as lines:
        wanted = f" - {file_system} ".encode()  # spaces in paths are escaped
        for line in lines:
            if wanted in line:
                fields = line.split(b" ")
                yield Mount(_unescape(fields[4]), _unescape(fields[3]), fields[2].decode())


def _unescape(field: bytes) -> Path:
    """Undo the kernel's escapes of spaces and the like: a backslash and three octal digits."""
    return Path(os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), field)))
