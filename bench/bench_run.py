"""Measures `Program.run()` of an XDP program on 64 bytes, beside a loop in C through libbpf.

    python bench/bench_run.py

Both ways take turns in one run. Needs root; the loop in C also a C compiler and libbpf's header.
Nothing here is a test: times depend on the machine and its load, so compare only times of one run.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_bpflink import Object, XdpAction
from pytest_bpflink.binding import libbpf
from pytest_bpflink.features.privileges import missing_privileges

if TYPE_CHECKING:
    from pytest_bpflink import Program

PROGS = Path(__file__).resolve().parent / "progs"

CALLS = 2_000
ROUNDS = 15
PACKET = bytes(64)

# Microseconds a call beyond the loop in C.
TARGET = 30


def main() -> None:
    """Measure both ways and print them."""
    reason = missing_privileges()
    if reason:
        sys.exit(reason)
    print(f"Linux {os.uname().release}; medians of {ROUNDS} rounds of {CALLS:,} calls")
    print("microseconds of processor time of a call\n")
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as directory:
        loop, why_not = compiled_loop(Path(directory))
        with Object.open(PROGS / "drop.bpf.c").load() as loaded:
            show(*measure(loaded.program("drop"), loop), why_not)


def show(ours: float, theirs: float | None, why_not: str) -> None:
    """Print the times, and their difference and ratio."""
    print(f"Program.run()        {ours:6.2f}")
    if theirs is None:
        print(f"loop in C            skipped: {why_not}")
        return
    print(f"loop in C            {theirs:6.2f}")
    print(f"difference           {ours - theirs:6.2f}   target: {TARGET} at most")
    print(f"ratio                {ours / theirs:6.2f}")


def measure(program: Program, loop: Any) -> tuple[float, float | None]:
    """Run the program in both ways by turns, and return the times of a call."""
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(run_times(program))
        if loop is not None:
            took = loop(program.fd, PACKET, len(PACKET), CALLS, 65536 + len(PACKET))
            assert took > 0, "the program did not run in the loop in C"
            theirs.append(took / CALLS / 1e3)
    return median(ours), median(theirs) if theirs else None


def run_times(program: Program) -> float:
    """Return the microseconds that a call of `Program.run()` takes."""
    began = time.process_time()
    for _ in range(CALLS):
        result = program.run(PACKET)
    took = time.process_time() - began
    assert (result.retval, result.data) == (XdpAction.DROP, PACKET)
    return took / CALLS * 1e6


def compiled_loop(directory: Path) -> tuple[Any, str]:
    """Compile the loop and return its function; or None, and what is missing."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        return None, "no C compiler: apt install gcc"
    library = directory / "run_loop.so"
    source = PROGS / "run_loop.c"
    # With the libbpf that Program.run() uses, which is in this process already.
    command = [compiler, "-O2", "-shared", "-fPIC", f"-o{library}", source, f"-l:{libbpf.SONAME}"]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if "bpf/bpf.h" in done.stderr:
        return None, "no bpf/bpf.h: apt install libbpf-dev"
    if done.returncode:
        sys.exit(done.stderr)
    loop = ctypes.CDLL(str(library)).run_times
    loop.restype = ctypes.c_longlong
    loop.argtypes = [ctypes.c_int, ctypes.c_char_p, *[ctypes.c_int] * 3]
    return loop, ""


if __name__ == "__main__":
    main()
