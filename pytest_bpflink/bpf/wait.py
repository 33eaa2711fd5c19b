"""Waiting, with a deadline, for effects that the kernel defers by design."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.02


def eventually(condition: Callable[[], object], *, within: float = 1.0, what: str = "") -> float:
    """Wait until a condition holds, and return the seconds that this took.

    For effects that the kernel defers by design: a link ends some time after its last pin is
    unlinked, a cgroup's programs go some time after rmdir. Assert immediate effects without it. The
    condition is called at least once after the deadline has passed; its exceptions go through.

    Raises `AssertionError` after `within` seconds, with `what` and the condition's last value.
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
