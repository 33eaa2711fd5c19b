"""How many guests this machine can take, by its cores and its memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MEMORY = Path("/proc/meminfo")

_MOST_FRESH = 16


def affordable_workers(wanted: int, *, kernels: int, memory_mib: int) -> tuple[int, str]:
    """Return how many guests each kernel may have, and a sentence if memory is short, else ""."""
    available = _available_mib()
    if not kernels or available is None or wanted * kernels * memory_mib <= available:
        return wanted, ""
    affordable = max(1, available // (kernels * memory_mib))
    needed = affordable * kernels * memory_mib
    having = f"this machine has {available} MiB left, and a guest takes up to {memory_mib} MiB"
    if affordable < wanted:
        return affordable, f"guests for each kernel: {affordable} instead of {wanted}; {having}"
    if needed > available:
        return affordable, f"guests may run out of memory: {having}"
    return affordable, ""


def fresh_at_once(memory_mib: int) -> int:
    """Return how many guests may be up at a time for items that have a kernel of their own.

    One more than there are cores, since a guest that boots waits now and then; at least two, so
    that one boots while another works; and no more than `Replacements` has threads for.
    """
    available = _available_mib()
    bearable = _MOST_FRESH if available is None else min(_MOST_FRESH, available // memory_mib)
    return max(2, min(1 + (os.cpu_count() or 1), bearable))


def boots_at_once() -> int:
    """Return how many guests may boot at a time."""
    # A boot leaves its core idle now and then; with too many at once, each misses its deadline.
    return max(4, 2 * (os.cpu_count() or 1))


def _available_mib() -> int | None:
    found = re.search(r"MemAvailable: *(\d+) kB", _MEMORY.read_text())
    return int(found[1]) // 1024 if found else None
