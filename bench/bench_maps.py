"""Measures how long it takes to read a map in batches, and one by one.

    python bench/bench_maps.py

Both ways take turns in one run. Needs root and Linux 5.6. Nothing here is a test: times depend on
the machine and its load, so compare only times of one run.
"""

from __future__ import annotations

import os
import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_bpflink import Map, MapType
from pytest_bpflink.bpf.maps import batches, elements
from pytest_bpflink.features.privileges import missing_privileges

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES = 10_000
ROUNDS = 7

TYPES = (MapType.HASH, MapType.ARRAY, MapType.PERCPU_HASH)

# What is measured: the name, and how it is read.
READS: dict[str, Callable[[Map], Any]] = {
    "dict(map.items())": lambda read: dict(read.items()),
    "list(map)": list,
    "dict(map)": dict,
}


def main() -> None:
    """Measure everything and print it."""
    reason = missing_privileges()
    if reason:
        sys.exit(reason)
    print(f"Linux {os.uname().release}; {ENTRIES:,} entries of 4 and 8 bytes; processor time\n")
    print(f"{'map':14}{'read by':20}{'in batches':>12}{'one by one':>12}{'ratio':>8}")
    for kind in TYPES:
        with Map.create(kind, key_size=4, value_size=8, max_entries=ENTRIES) as filled:
            filled.update({number: number for number in range(ENTRIES)})
            for name, read in READS.items():
                print(f"{kind.name:14}{name:20}{measure(filled, read)}")


def measure(filled: Map, read: Callable[[Map], Any]) -> str:
    """Read in both ways by turns, and return the times and their ratio."""
    at_once: list[float] = []
    singly: list[float] = []
    for _ in range(ROUNDS):
        at_once.append(timed(filled, read, batches.BATCHED))
        singly.append(timed(filled, read, frozenset()))
    fast, slow = median(at_once), median(singly)
    return f"{fast * 1e3:9.1f} ms{slow * 1e3:9.1f} ms{slow / fast:7.1f}x"


def timed(filled: Map, read: Callable[[Map], Any], types: frozenset[MapType]) -> float:
    """Return the processor time of reading, where these types are read in batches."""
    vars(elements)["BATCHED"] = types
    began = time.process_time()
    entries = read(filled)
    took = time.process_time() - began
    assert len(entries) == ENTRIES
    return took


if __name__ == "__main__":
    main()
