"""QEMU's monitor: commands, results and events, with deadlines.

Knows the protocol (QEMU's docs/interop/qmp-spec) over one end of a socket pair. `warm` chooses the
commands.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

# QEMU answers in milliseconds; its host may be busy.
_SECONDS = 30.0


class MonitorError(Exception):
    """QEMU refused a command, is gone, or did not answer in time."""


class Monitor:
    """One QEMU's monitor. QEMU has the other end of CONNECTION as a character device."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._events: list[str] = []
        # The commands that QEMU has not answered yet; the first answer is its greeting.
        self._unanswered = ["QEMU"]
        self.send("qmp_capabilities")

    def send(self, command: str, **arguments: Any) -> None:
        """Send a command, even before QEMU reads any; `settle` returns its result."""
        request = {"execute": command, "arguments": arguments}
        self._unanswered.append(command)
        try:
            self._connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MonitorError(f"{command}: QEMU is gone: {error}") from None

    def settle(self, *, seconds: float = _SECONDS) -> Any:
        """Wait for all results and return the last. Raises MonitorError if one is an error."""
        deadline = time.monotonic() + seconds
        result = None
        while self._unanswered:
            answer = self._next(deadline)
            if "event" in answer:
                self._events.append(answer["event"])
                continue
            command = self._unanswered.pop(0)
            if "error" in answer:
                raise MonitorError(f"{command}: {answer['error']['desc']}")
            result = answer.get("return")
        return result

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result. Raises MonitorError."""
        self.send(command, **arguments)
        return self.settle()

    def wait_for(self, event: str, *, seconds: float = _SECONDS) -> None:
        """Return when QEMU has sent EVENT, or raise MonitorError."""
        deadline = time.monotonic() + seconds
        while event not in self._events:
            self._events.append(self._next(deadline).get("event", ""))
        self._events.remove(event)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._received:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._connection.recv(1 << 16)
            except TimeoutError:
                raise MonitorError("QEMU's monitor does not answer") from None
            except OSError as error:
                raise MonitorError(f"QEMU is gone: {error}") from None
            if not data:
                raise MonitorError("QEMU is gone")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
