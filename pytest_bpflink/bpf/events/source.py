"""What `Events` needs of a buffer that the kernel shares with this process."""

from __future__ import annotations

import threading
from typing import Protocol

_lock = threading.Lock()


class Source(Protocol):
    """A buffer of events, open until `close()`."""

    @property
    def lost(self) -> int:
        """How many events are known to be lost, of those that were read up to."""

    @property
    def loss(self) -> str:
        """What happened to the events that are lost, as a sentence."""

    @property
    def padding(self) -> int:
        """How many bytes the kernel may have put behind those of an event."""

    def read(self) -> list[bytes]:
        """Take some of the events that are there; an empty list if there are none."""

    def wait(self, seconds: float) -> None:
        """Return when there may be an event to read, or after so many seconds."""

    def close(self) -> None:
        """Unmap the buffer."""


def fence() -> None:
    """Keep the processor from moving reads and writes of memory across this call.

    Taking and giving a lock does so, on each architecture.
    """
    with _lock:
        pass
