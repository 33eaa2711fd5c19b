"""The letter that makes a restored guest one of its own: clock, seed, environment, limits.

Knows what a guest must have from its host, and how its `agent` and `worker` (`guest/`) read it.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import time
from typing import TYPE_CHECKING

from pytest_bpflink.vm.machines.gateway import BOOTSTRAP
from pytest_bpflink.vm.warm import entry_points
from pytest_bpflink.vm.warm.blueprint import SHARE_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_bpflink.vm.machines.plain import Worker

# As worker.receive reads it.
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
    worker: Worker, *, host_name: str, modules: str | None, plugin: str, path: Iterable[str]
) -> bytes:
    """Return the letter for a guest in which this worker shall run, as of now.

    PLUGIN is a digest of the plugin that the worker has to find, empty where any is another. PATH
    is where its Python finds distributions.
    """
    letter = json.dumps(
        {
            "time": time.time(),
            "seed": os.urandom(_SEED_BYTES).hex(),
            "hostname": host_name,
            "modules": modules,
            "plugin": plugin,
            "writable": worker.writable and [SHARE_TAG, str(worker.writable)],
            # Where these lie on a file system that guests have of their own, /run for one, they
            # are put into it.
            "visible": [str(worker.cwd), sys.prefix],
            "environment": {"HOME": "/root", **worker.environment},
            "cwd": str(worker.cwd),
            "umask": _umask(),
            "limits": {name: resource.getrlimit(getattr(resource, name)) for name in _LIMITS},
            "program": BOOTSTRAP,
            "session": worker.session,
            "offers": {} if worker.session else entry_points.read(path),
        }
    ).encode()
    return _LENGTH.pack(len(letter)) + letter


def _umask() -> int:
    # It can be read from /proc; by umask(2) only by setting it, for all threads.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
