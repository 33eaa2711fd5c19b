"""Measures how fast events of ring buffers and perf event arrays are read, and what is lost.

    python bench/bench_events.py

A thread has a program write events at a steady rate, and the main thread reads them. Needs root.
Nothing here is a test: rates depend on the machine and its load.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from pytest_bpflink import Events, Object, Program
from pytest_bpflink.features.privileges import missing_privileges

SOURCE = Path(__file__).resolve().parent / "progs/events.bpf.c"

SECONDS = 5

# Map, program, type, and the rate of the target.
CASES = {
    "ring buffer, raw": ("ring", "write_ring", "", 500_000),
    "ring buffer, decoded": ("ring", "write_ring", "struct event", 100_000),
    "perf event array, raw": ("perf", "write_perf", "", 100_000),
    "perf event array, decoded": ("perf", "write_perf", "struct event", 100_000),
}


def main() -> None:
    """Measure everything and print it."""
    reason = missing_privileges()
    if reason:
        sys.exit(reason)
    print(f"Linux {os.uname().release}; events of 32 bytes, written and read for {SECONDS} s\n")
    print(f"{'':26}{'a second':>10}{'written':>11}{'read':>11}{'lost':>6}{'busy':>6}{'most':>12}")
    for name, case in CASES.items():
        print(f"{name:26}{measure(*case)}")
    print("\nbusy: the part of the time in which there was something to read")
    print("most: events a second that are read while nothing is written")


def measure(map_name: str, program: str, type_name: str, rate: int) -> str:
    """Write and read at a rate, and return the row."""
    with Object.open(SOURCE).load() as loaded:
        events = loaded.map(map_name).reading(type_name, allow_lost=True)
        with events:
            most = read_at_rest(loaded, program, events)
            before = loaded.bss["written"]
            writer = threading.Thread(target=write, args=(loaded.program(program), rate))
            writer.start()
            read, busy, began = 0, 0.0, time.perf_counter()
            while writer.is_alive():
                start = time.perf_counter()
                now = sum(1 for _ in events)
                read += now
                busy += time.perf_counter() - start if now else 0
                time.sleep(0.001)
            took = time.perf_counter() - began
            read += sum(1 for _ in events)
            written = loaded.bss["written"] - before
            lost = max(events.lost, loaded.bss["refused"])
    return f"{written / took:10,.0f}{written:11,}{read:11,}{lost:6}{busy / took:6.0%}{most:12,.0f}"


def write(program: Program, rate: int) -> None:
    """Have the program write as many events as the time that has passed asks for."""
    began, written = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < SECONDS:
        due = int(passed * rate) - written
        if due:
            program.run(bytes(14), repeat=due)
            written += due
        time.sleep(0.001)


def read_at_rest(loaded: Object, program: str, events: Events) -> float:
    """Return how many events a second are read while nothing is written."""
    best = 0.0
    for _ in range(10):
        loaded.program(program).run(bytes(14), repeat=2000)
        start = time.perf_counter()
        read = sum(1 for _ in events)
        best = max(best, read / (time.perf_counter() - start))
    return best


if __name__ == "__main__":
    main()
