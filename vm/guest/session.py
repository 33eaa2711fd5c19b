"""Runs a command in a guest: its streams are frames on the guest's ports.

In our own guests `worker` imports this module; in a plain guest it runs as a program of the host's,
with the arguments of `run` as JSON. Standard library only, and only modules that `preload` imports.
A frame is a letter, a length and that many bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FRAME = struct.Struct("!cI")

# From the host: bytes for standard input, its end, a signal, the terminal's size, and a stream that
# nobody reads any more.
INPUT, END, SIGNAL, SIZE, CLOSE = b"i", b"e", b"k", b"w", b"c"

# From the guest: the command was started, its output, its errors, how much input it took, its
# status.
STARTED, OUTPUT, ERRORS, TAKEN, STATUS = b"s", b"o", b"r", b"t", b"x"

# Rows and columns; a number.
DIMENSIONS, NUMBER = struct.Struct("!HH"), struct.Struct("!i")

_CHUNK = 1 << 16

_Action = tuple[int, int, int] | tuple[int, int, str, int, int]

# If a process that the command left has the terminal open, output may follow so long after the
# command's end, in milliseconds.
_LAST_WORDS = 100


def run(
    command: list[str],
    *,
    program: str,
    size: tuple[int, int] | None,
    merged: bool,
    environment: Mapping[str, str],
) -> None:
    """Run a command, with the file PROGRAM, to its end.

    It runs on a terminal of SIZE, its rows and columns; if there is no SIZE, on pipes. If MERGED,
    both outputs go to one pipe, which keeps their order.
    """
    relay = _Relay(environment)
    error = relay.start(command, program, size, merged=merged)
    if error is None:
        relay.work()
        return
    _send(ERRORS, f"{command[0]}: {error.strerror}\n".encode())
    # The statuses of shells.
    _send(STATUS, NUMBER.pack(127 if isinstance(error, FileNotFoundError) else 126))


class _Relay:
    """A command, and the descriptors that lead to it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._poll = select.poll()
        self._outputs: dict[int, bytes] = {}
        self._input = -1
        self._pending = b""
        self._ended = False
        self._terminal = -1
        self._received = b""
        self._child = 0

    def start(
        self, command: list[str], program: str, size: tuple[int, int] | None, *, merged: bool
    ) -> OSError | None:
        """Start the command; return the error if it can't be started."""
        theirs, actions = self._make_terminal(size) if size else self._make_pipes(merged=merged)
        try:
            # Not fork, which takes long in a process of this size.
            self._child = os.posix_spawnp(
                program,
                command,
                self._environment,
                file_actions=actions,
                setsid=True,
                # Signals that Python ignores, and that programs expect to be at their default.
                setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            return error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        for descriptor in (self._input, *self._outputs):
            os.set_blocking(descriptor, False)
        _send(STARTED)
        return None

    def work(self) -> None:
        ended = os.pidfd_open(self._child)
        for descriptor in (0, ended, *self._outputs):
            self._poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, events in self._poll.poll():
                if descriptor == 0:
                    self._receive()
                elif descriptor == ended:
                    self._finish()
                    return
                elif descriptor == self._input and events & ~select.POLLIN:
                    self._feed()
                if descriptor in self._outputs and events & ~select.POLLOUT:
                    self._forward(descriptor)

    def _make_terminal(self, size: tuple[int, int]) -> tuple[list[int], list[_Action]]:
        self._terminal, theirs = os.openpty()
        self._input = self._terminal
        self._outputs[self._terminal] = OUTPUT
        self._resize(*size)
        # The first terminal that the leader of a session opens becomes the controlling terminal.
        opened = (os.POSIX_SPAWN_OPEN, 0, os.ttyname(theirs), os.O_RDWR, 0)
        others = [(os.POSIX_SPAWN_DUP2, 0, descriptor) for descriptor in (1, 2)]
        return [theirs], [opened, *others]

    def _make_pipes(self, *, merged: bool) -> tuple[list[int], list[_Action]]:
        source, self._input = os.pipe()
        output, sink = os.pipe()
        self._outputs[output] = OUTPUT
        theirs = [source, sink, sink]
        if not merged:
            errors, theirs[2] = os.pipe()
            self._outputs[errors] = ERRORS
        actions: list[_Action] = [
            (os.POSIX_SPAWN_DUP2, each, place) for place, each in enumerate(theirs)
        ]
        return sorted(set(theirs)), actions

    def _receive(self) -> None:
        self._received += os.read(0, _CHUNK)
        while len(self._received) >= FRAME.size:
            kind, length = FRAME.unpack_from(self._received)
            end = FRAME.size + length
            if len(self._received) < end:
                return
            self._obey(kind, self._received[FRAME.size : end])
            self._received = self._received[end:]

    def _obey(self, kind: bytes, contents: bytes) -> None:
        if kind == INPUT:
            self._pending += contents
            self._feed()
        elif kind == END:
            self._ended = True
            self._feed()
        elif kind == SIGNAL:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child, *NUMBER.unpack(contents))
        elif kind == SIZE:
            self._resize(*DIMENSIONS.unpack(contents))
        elif kind == CLOSE:
            for descriptor, output in list(self._outputs.items()):
                if output == contents:
                    self._drop(descriptor)

    def _feed(self) -> None:
        """Give the command as much of its input as it takes now."""
        taken = 0
        if self._pending and self._input >= 0:
            try:
                taken = os.write(self._input, self._pending)
            except BlockingIOError:
                pass
            except OSError:  # it has closed its end
                taken = len(self._pending)
            self._pending = self._pending[taken:]
        if taken:
            _send(TAKEN, NUMBER.pack(taken))
        if self._input < 0:
            return
        if self._input in self._outputs:
            wanted = select.POLLIN | (select.POLLOUT if self._pending else 0)
            self._poll.register(self._input, wanted)
        elif self._pending:
            self._poll.register(self._input, select.POLLOUT)
        else:
            with contextlib.suppress(KeyError):
                self._poll.unregister(self._input)
            if self._ended:
                os.close(self._input)
                self._input = -1

    def _forward(self, descriptor: int) -> bool:
        """Send on the command's output; return whether there was any."""
        try:
            written = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the terminal open
            written = b""
        if written:
            _send(self._outputs[descriptor], written)
        else:
            self._drop(descriptor)
        return bool(written)

    def _drop(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        del self._outputs[descriptor]
        if descriptor != self._terminal:
            os.close(descriptor)

    def _finish(self) -> None:
        _, status = os.waitpid(self._child, 0)
        for descriptor in list(self._outputs):
            waiting = select.poll()
            waiting.register(descriptor, select.POLLIN)
            # A pipe already has all output; a terminal hands it on a moment later.
            patience = _LAST_WORDS if descriptor == self._terminal else 0
            while waiting.poll(patience) and self._forward(descriptor):
                pass
        _send(STATUS, NUMBER.pack(os.waitstatus_to_exitcode(status)))

    def _resize(self, rows: int, columns: int) -> None:
        if self._terminal >= 0:
            fcntl.ioctl(
                self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0)
            )


def _send(kind: bytes, contents: bytes = b"") -> None:
    rest = FRAME.pack(kind, len(contents)) + contents
    while rest:
        rest = rest[os.write(1, rest) :]


if __name__ == "__main__":
    import json
    import sys

    run(**json.loads(sys.argv[1]), environment=os.environ)
