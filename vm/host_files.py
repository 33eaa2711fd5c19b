"""Whether this process is in a guest, and which of the files that it sees are then the host's.

Locks don't pass between a guest and its host (QEMU's 9p grants each), so in a guest nobody can know
whether the owner of a file of the host is alive.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_COMMAND_LINE = Path("/proc/cmdline")

# Parameters of our own guests' kernels, and of those that virtme-ng's init boots.
_OF_GUESTS = ("rdinit=/bpflink/", "virtme_")

# A guest has file systems of its own on these directories, and shares all others with the host.
_OWN = ("/run", "/dev/shm")  # noqa: S108


@cache
def in_guest() -> bool:
    """Whether this machine is a guest of ours, or another one of virtme-ng's."""
    return any(word.strip('"').startswith(_OF_GUESTS) for word in _COMMAND_LINE.read_text().split())


def is_the_hosts(path: Path) -> bool:
    """Whether this machine is a guest, and PATH, which exists, may be a file of its host.

    Raises OSError.
    """
    return in_guest() and path.stat().st_dev not in {os.stat(own).st_dev for own in _OWN}
