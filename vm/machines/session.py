"""A command in a guest, as if it ran here: streams, terminal, signals, exit status.

Knows the host's end of the guest's pipes. `guest/session.py` has the guest's end, and the frames.
The caller reports a guest that died.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import termios
import threading
import time
import tty
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.guest import session as guest
from pytest_bpflink.vm.machines import gateway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.vm.machines.machine import Machine

# The most input, in bytes, that is sent before the command takes it; then we stop reading ours.
_MOST_INPUT = 1 << 18

_CHUNK = 1 << 16

# Signals that end a command are passed on to the one in the guest. The third within two seconds
# ends the guest, which may hang. On a terminal Ctrl-C is sent as a character; there three Ctrl-]
# end the guest.
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_PASSED_ON = {*_ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
_ESCAPE = b"\x1d"
_TIMES, _WITHIN = 3, 2.0

# How long `run` waits at its end for the thread that reads frames. If that takes longer, the thread
# is writing to a blocked output, for which a user who gave up the guest need not wait.
_LAST_RING_SECONDS = 0.5


def call(command: Sequence[str]) -> dict[str, Any]:
    """Return the SESSION of a Machine that runs COMMAND on streams like this process's."""
    return {
        "command": list(command),
        # An emulated guest takes milliseconds to look into each directory of PATH; the host looks,
        # for most files are the same.
        "program": shutil.which(command[0]) or command[0],
        "size": _size() if _is_on_terminal() else None,
        "merged": _is_one_output(),
    }


def run(machine: Machine) -> int | None:
    """Connect the command of a ready guest with this process's standard streams and signals.

    Return the command's status as Popen does, negative for a signal; None if the guest ended before
    the command, by itself or by the user. Call it in the main thread, which gets the signals.
    Raises Unwritable if the command's output could not be written here.
    """
    with ExitStack() as undo:
        return _Session(machine, undo).run()


class Unwritable(Exception):  # noqa: N818 (reads as what happened)
    """The command's output could not be written here; `status` is the command's."""

    def __init__(self, error: OSError, status: int | None) -> None:
        super().__init__(f"the command's output can't be written: {error.strerror}")
        self.status = status


class _Session:
    """One command, from here to the guest and back."""

    def __init__(self, machine: Machine, undo: ExitStack) -> None:
        self._machine = machine
        self._undo = undo
        self._on_terminal = _is_on_terminal()
        self._to_guest = self._open(gateway.TO_GUEST, os.O_WRONLY)
        self._from_guest = self._open(gateway.FROM_GUEST, os.O_RDONLY)
        # Signals, and the thread that reads frames, wake up the main thread through this pipe.
        self._bell, self._ringer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        undo.callback(os.close, self._bell)
        undo.callback(os.close, self._ringer)
        self._runs = self._ended = self._at_end = False
        self._credit = _MOST_INPUT
        self._unread: deque[bytes] = deque()
        self._warnings: deque[float] = deque(maxlen=_TIMES)
        self._status: int | None = None
        self._unwritten: OSError | None = None

    def run(self) -> int | None:
        self._catch_signals()
        if self._on_terminal:
            self._undo.callback(termios.tcsetattr, 0, termios.TCSADRAIN, termios.tcgetattr(0))
            # Without TCSAFLUSH, which drops what was typed while the guest started.
            tty.setraw(0, termios.TCSADRAIN)
        # In a thread, for a blocked output of ours must not delay input and signals.
        reader = threading.Thread(target=self._read_frames, daemon=True)
        reader.start()
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        while not self._ended:
            listens = self._runs and self._credit > 0 and not self._at_end
            poll.register(0, select.POLLIN if listens else 0)
            for descriptor, events in poll.poll():
                if descriptor == self._bell:
                    self._answer_bell()
                elif listens:
                    self._relay_input()
                elif events:
                    # The input was hung up, which poll reports even if no event is asked for.
                    poll.unregister(0)
        # The thread rings once more, and the bell is about to be closed.
        reader.join(_LAST_RING_SECONDS)
        if self._unwritten:
            raise Unwritable(self._unwritten, self._status)
        return self._status

    def _open(self, name: str, mode: int) -> int:
        # Without O_NONBLOCK this would wait for a QEMU that may be dead.
        path = self._machine.directory / name
        descriptor = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(descriptor, True)
        self._undo.callback(os.close, descriptor)
        return descriptor

    def _catch_signals(self) -> None:
        before = signal.set_wakeup_fd(self._ringer, warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, before)
        for number in (*_PASSED_ON, signal.SIGWINCH):
            # An ignored signal, as SIGHUP under nohup, stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                self._undo.callback(signal.signal, number, signal.signal(number, _do_nothing))

    def _answer_bell(self) -> None:
        for number in os.read(self._bell, _CHUNK):
            if number == signal.SIGWINCH and self._on_terminal and self._runs:
                self._send_size()
            elif number in _ENDING and (not self._runs or self._is_last_warning()):
                self._give_up()
            elif number in _PASSED_ON and self._runs:
                self._send(guest.SIGNAL, guest.NUMBER.pack(number))
        while self._unread:
            self._send(guest.CLOSE, self._unread.popleft())

    def _relay_input(self) -> None:
        try:
            chunk = os.read(0, min(_CHUNK, self._credit))
        except OSError:  # it is closed, or a terminal that was hung up
            chunk = b""
        if self._on_terminal and chunk == _ESCAPE and self._is_last_warning():
            self._give_up()
        elif chunk:
            self._credit -= len(chunk)
            self._send(guest.INPUT, chunk)
        else:
            self._at_end = True
            self._send(guest.END)

    def _is_last_warning(self) -> bool:
        self._warnings.append(time.monotonic())
        return len(self._warnings) == _TIMES and self._warnings[-1] - self._warnings[0] < _WITHIN

    def _give_up(self) -> None:
        self._machine.kill()
        self._ended = True

    def _send_size(self) -> None:
        self._send(guest.SIZE, guest.DIMENSIONS.pack(*_size()))

    def _send(self, kind: bytes, contents: bytes = b"") -> None:
        self._write(guest.FRAME.pack(kind, len(contents)) + contents)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the guest ended, so the other pipe does
            while data:
                data = data[os.write(self._to_guest, data) :]

    # In the thread that reads.

    def _read_frames(self) -> None:
        with open(self._from_guest, "rb", closefd=False) as frames:
            while len(head := frames.read(guest.FRAME.size)) == guest.FRAME.size:
                kind, length = guest.FRAME.unpack(head)
                contents = frames.read(length)
                if kind == guest.STATUS:
                    (self._status,) = guest.NUMBER.unpack(contents)
                    break
                self._take(kind, contents)
        self._ended = True
        self._ring()

    def _take(self, kind: bytes, contents: bytes) -> None:
        if kind in {guest.OUTPUT, guest.ERRORS}:
            try:
                _write_out(1 if kind == guest.OUTPUT else 2, contents)
            except OSError as error:
                if not isinstance(error, BrokenPipeError):
                    self._unwritten = error
                # Nobody reads our output: have the guest close the command's.
                self._unread.append(kind)
                self._ring()
        else:
            if kind == guest.STARTED:
                if self._on_terminal:
                    # The terminal may have been resized since the guest was started.
                    self._send_size()
                self._runs = True
            elif kind == guest.TAKEN:
                self._credit += guest.NUMBER.unpack(contents)[0]
            self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._ringer, b"\0")


def _do_nothing(_number: int, _frame: object) -> None:
    """Handle a signal: its number is read from the bell."""


def _write_out(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # a process that shares the file set O_NONBLOCK
            select.select([], [descriptor], [])


def _is_on_terminal() -> bool:
    return os.isatty(0) and os.isatty(1)


def _size() -> tuple[int, int]:
    size = os.get_terminal_size(1)
    return size.lines, size.columns


def _is_one_output() -> bool:
    """Whether both outputs are the same file, in which the order of lines counts."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(1), os.fstat(2))
    return False
