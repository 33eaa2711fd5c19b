"""What is mounted where, as this process sees it: `/proc/self/mountinfo` (proc(5))."""

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
    """A mount: where it is, and which directory of its file system it shows."""

    path: Path
    root: Path


def mounted(file_system: str) -> Iterator[Mount]:
    """Yield the mounts of a type of file system, such as `bpf` or `cgroup2`."""
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            before, _, after = line.partition(b" - ")
            if after.split(b" ")[0] == file_system.encode():
                fields = before.split(b" ")
                yield Mount(path=_unescape(fields[4]), root=_unescape(fields[3]))


def _unescape(field: bytes) -> Path:
    """Undo how the kernel writes spaces and the like: a backslash and three octal digits."""
    return Path(os.fsdecode(re.sub(rb"\\(\d{3})", lambda octal: bytes([int(octal[1], 8)]), field)))
