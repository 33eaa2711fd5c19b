"""Booting the guests of a run side by side, as many at a time as this machine can take.

Knows this machine's cores and memory, and how to show what is going on.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_bpflink.guests import Guest

_MEMORY = Path("/proc/meminfo")

_FRESH = 16


class Progress(Protocol):
    """What is needed to show progress; `report.Progress` is one."""

    def __call__(self, text: str) -> None:
        """Say what is being done now."""

    def line(self, text: str) -> None:
        """Say what was done."""

    def done(self) -> None:
        """Take back what is being done."""


def side_by_side(
    guests: Sequence[Guest], progress: Progress, *, meanwhile: Callable[[], None]
) -> None:
    """Boot guests, and return when each is up or a stand-in, and MEANWHILE was done.

    Raises MachineError if one can't be started on this host; none is left running then.
    """
    began = time.monotonic()
    at_once = _at_once()
    if len(guests) > at_once:
        progress.line(
            f"booting {at_once} of {len(guests)} guests at a time, since this machine has"
            f" {os.cpu_count()} cores"
        )
    waiting = deque(guests)
    booting: dict[Future[None], Guest] = {}
    prepared = False
    with ThreadPoolExecutor(at_once, thread_name_prefix="boot") as threads:
        try:
            while waiting or booting:
                while waiting and len(booting) < at_once:
                    guest = waiting.popleft()
                    # Here, since QEMU dies with the thread that starts it.
                    try:
                        guest.boot()
                    except MachineError as error:
                        raise MachineError(f"{guest.kernel.spec}: {error}") from None
                    booting[threads.submit(guest.wait_ready)] = guest
                if not prepared:
                    meanwhile()
                    prepared = True
                progress(f"booting {', '.join(_names(booting.values()))}")
                for done in wait(booting, return_when=FIRST_COMPLETED).done:
                    done.result()
                    guest = booting.pop(done)
                    if guest.stand_in:
                        progress.line(f"{guest.name} did not boot")
        except BaseException:
            # Else leaving the pool would wait for them to come up.
            for guest in booting.values():
                guest.kill()
            raise
    progress.line(f"guests are up after {time.monotonic() - began:.1f} s")
    progress.done()


def affordable_workers(wanted: int, *, kernels: int, memory_mib: int) -> tuple[int, str]:
    """Return how many guests each kernel may have, and a sentence if it is fewer than wanted."""
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

    One more than there are cores, since a guest that comes up waits now and then; two at least, so
    that one comes up while another is at work; and no more than `Replacements` has threads for.
    """
    available = _available_mib()
    bearable = _FRESH if available is None else min(_FRESH, available // memory_mib)
    return max(2, min(1 + (os.cpu_count() or 1), bearable))


def _at_once() -> int:
    # A boot does not keep a core busy all the time; of too many at once, each misses its deadline.
    return max(4, 2 * (os.cpu_count() or 1))


def _available_mib() -> int | None:
    found = re.search(r"MemAvailable: *(\d+) kB", _MEMORY.read_text())
    return int(found[1]) // 1024 if found else None


def _names(guests: Iterable[Guest]) -> list[str]:
    return [guest.name for guest in guests]
