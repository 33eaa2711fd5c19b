"""When to give up on a guest that boots: at a time, or when its console has long been silent."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Between two looks at the console.
_LOOK_SECONDS = 1.0


class Deadline:
    """Is missed after SECONDS, or once the file CONSOLE has not grown for SILENCE seconds.

    A slow machine writes to its console now and then, a machine that hangs does not.
    """

    def __init__(self, seconds: float, *, console: Path, silence: float = math.inf) -> None:
        self._seconds = seconds
        self._console = console
        self._silence = silence
        self._heard = time.monotonic()
        self._end = self._heard + seconds
        self._size = 0

    def pause(self) -> float:
        """Return for how many seconds to wait before `missed` is asked again."""
        left = max(0.0, self._end - time.monotonic())
        return left if math.isinf(self._silence) else min(left, _LOOK_SECONDS)

    def missed(self) -> str:
        """Return in a phrase why to give up on the guest now; empty if there is no reason."""
        now = time.monotonic()
        with suppress(FileNotFoundError):
            size = self._console.stat().st_size
            if size != self._size:
                self._size, self._heard = size, now
        if now >= self._end:
            return f"was not up after {self._seconds:.0f} s"
        if now >= self._heard + self._silence:
            return f"said nothing on its console for {self._silence:.0f} s"
        return ""
