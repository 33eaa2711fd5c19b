"""Waiting for what the kernel defers by design, with a deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.02


def eventually(condition: Callable[[], object], *, within: float = 1.0, what: str = "") -> float:
    """Wait until a condition holds and return the seconds that took.

    For what the kernel defers by design: the end of a link after its last pin is unlinked, a
    cgroup's programs after rmdir. What the kernel does at once is asserted at once, without this.
    The condition is tried at least once after the deadline has passed; its exceptions go through.

    Raises `AssertionError`, with `what` was awaited and the last value, after `within` seconds.
    """
    start = time.monotonic()
    pause = _FIRST_PAUSE
    while True:
        elapsed = time.monotonic() - start
        last = condition()
        if last:
            return elapsed
        if elapsed > within:
            awaited = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(
                f"{awaited}: not so after {elapsed:.2f} s (allowed: {within:g} s); last: {last!r}"
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
