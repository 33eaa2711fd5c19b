"""The letter that a guest gets once it was booted or restored: clock, seed, environment, limits.

Knows these values of the host. `guest/agent.py` and `guest/worker.py` read and apply the letter.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import time
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.machines.gateway import BOOTSTRAP
from pytest_bpflink.vm.warm import entry_points
from pytest_bpflink.vm.warm.blueprint import SHARE_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pytest_bpflink.vm.machines.plain import Worker

# The length, which `receive` in guest/worker.py reads first.
_LENGTH = struct.Struct("!Q")

# More than the 32 bytes of the kernel's random number generator.
_SEED_BYTES = 64

_LIMITS = (
    "RLIMIT_CORE",
    "RLIMIT_CPU",
    "RLIMIT_DATA",
    "RLIMIT_FSIZE",
    "RLIMIT_NOFILE",
    "RLIMIT_STACK",
)


def compose(
    worker: Worker,
    *,
    host_name: str,
    modules: str | None,
    config: str | None,
    plugin: str,
    path: Iterable[str],
    visible: Iterable[Path],
    parcel: int = 0,
    host: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the letter for a guest that is to run WORKER; it holds the present time.

    PLUGIN is the digest of the plugin's files: a guest in which they had another digest when it was
    saved imports the plugin anew, and so does each guest if PLUGIN is empty. PATH are the
    directories in which the worker's Python finds distributions. A guest mounts file systems on
    /run and others: of the directories VISIBLE it shows those below such a mount. PARCEL is the
    length of what follows the letter of a packed guest. HOST is for a guest with another root than
    the host's: what it shows of the host.
    """
    letter = json.dumps(
        {
            "time": time.time(),
            "seed": os.urandom(_SEED_BYTES).hex(),
            "hostname": host_name,
            "modules": modules,
            "config": config,
            "plugin": plugin,
            "writable": worker.writable and [SHARE_TAG, str(worker.writable)],
            "host": host,
            "visible": [str(directory) for directory in visible],
            "parcel": parcel,
            "environment": {"HOME": "/root", **worker.environment},
            "cwd": str(worker.cwd),
            "umask": _umask(),
            "limits": {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
            "program": BOOTSTRAP,
            "session": worker.session,
            "entry_points": {} if worker.session else entry_points.read(path),
        }
    ).encode()
    return _LENGTH.pack(len(letter)) + letter


def _umask() -> int:
    # umask(2) returns it only by changing it, for all threads.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
