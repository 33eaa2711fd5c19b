"""One virtual machine: a QEMU process from its start to its death.

Knows processes, pipes and deadlines. `plain` composes QEMU's command and the program of the guest;
`warm.cold` composes others. The caller chooses the kernel and the acceleration.
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import select
import shlex
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.vm.machines import console, console_file, gateway, plain, virtme
from pytest_bpflink.vm.machines.deadline import Deadline
from pytest_bpflink.vm.machines.errors import BootFailed, MachineError
from pytest_bpflink.vm.trust import OWNER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path
    from types import TracebackType

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

# An emulated guest is so many times as slow, and slower still while other guests boot.
_TCG_FACTOR = 5

# The most that Linux grants any user (/proc/sys/fs/pipe-max-size).
_PIPE_BYTES = 1 << 20

# The file that `plain` and `warm.cold` have the guest's standard error written to.
_ERRORS = "stderr.log"

# Threads start guests side by side; only one of them may make the thread of `_starter`.
_CHOOSING = threading.Lock()


class Machine:
    """A guest that runs one Python, which execnet reaches through `gateway_python`.

    With a SESSION (from `session.call`) it runs a command instead, which `session.run` connects.

    DIRECTORY holds the machine's files: a new directory for each machine. The guest's writes reach
    the host only in WRITABLE. QEMU dies with the process that started it, however that process
    ends.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        acceleration: Acceleration,
        directory: Path,
        cwd: Path,
        environment: Mapping[str, str],
        python: str = sys.executable,
        memory_mib: int = 512,
        cpus: int = 1,
        append: Sequence[str] = (),
        console_log: Path | None = None,
        writable: Path | None = None,
        session: Mapping[str, Any] | None = None,
    ) -> None:
        self.kernel = kernel
        self.acceleration = acceleration
        self.directory = directory.absolute()
        self.console_log = console_log or self.directory / "console.log"
        self._worker = plain.Worker(
            python=python,
            cwd=cwd.absolute(),
            # In a guest, where this user's files are another's than root's, they count as trusted.
            environment={**environment, OWNER: str(os.geteuid())},
            writable=writable and writable.resolve(),
            session=session,
        )
        self._memory_mib = memory_mib
        self._cpus = cpus
        self._append = tuple(append)
        self._process: subprocess.Popen[bytes] | None = None
        self._from_guest = -1
        self._to_guest = -1
        self._undo = ExitStack()
        # Once it is set, no QEMU is started; the lock is held while one is started or killed.
        self._killed = False
        self._starting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start QEMU and return; the guest boots meanwhile.

        Raises MachineError.
        """
        if self.kernel.is_foreign:
            raise MachineError(
                f"{self.kernel.spec}: a plain guest has this machine's root and architecture;"
                " leave out --kernel-guest=plain"
            )
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = plain.compose(
            self.kernel,
            acceleration=self.acceleration,
            directory=self.directory,
            worker=self._worker,
            memory_mib=self._memory_mib,
            cpus=self._cpus,
            append=self._append,
        )
        self._empty_console()
        self._launch(command)

    def _launch(self, command: Sequence[str], *, pass_fds: Sequence[int] = ()) -> None:
        """Start a QEMU with pipes to it; an earlier QEMU of this machine is killed."""
        self._end_qemu()
        self._undo.close()
        with ExitStack() as undo:
            for_guest = self._pipe(undo, gateway.TO_GUEST, os.O_RDONLY)
            by_guest = self._pipe(undo, gateway.FROM_GUEST, os.O_WRONLY)
            log = undo.enter_context((self.directory / "qemu.log").open("wb"))
            log_of_console = undo.enter_context(console_file.appending(self.console_log))
            with self._starting:
                self._check_not_killed()
                try:
                    self._process = _in_lasting_thread(
                        subprocess.Popen,
                        [
                            *_dying_with_parent(),
                            *command,
                            *virtme.console_descriptor(log_of_console),
                        ],
                        stdin=for_guest,
                        stdout=by_guest,
                        stderr=log,
                        pass_fds=[*pass_fds, log_of_console],
                        # pytest alone handles Ctrl-C, and ends its guests afterwards.
                        start_new_session=True,
                    )
                except FileNotFoundError:
                    raise MachineError("setpriv is needed: apt-get install util-linux") from None

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when the guest's Python is about to run.

        TIMEOUT is in seconds under KVM; an emulated guest has five times as long. Raises
        BootFailed, with the end of the console; the machine is then dead.
        """
        self._await(plain.READY, timeout)

    def _await(self, line: bytes, timeout: float, *, silence: float = math.inf) -> None:
        """Read the guest's output up to LINE, or raise BootFailed.

        A guest whose console says nothing for SILENCE seconds is given up before TIMEOUT.
        """
        deadline = Deadline(
            self._scaled(timeout), console=self.console_log, silence=self._scaled(silence)
        )
        poll = select.poll()
        poll.register(self._from_guest, select.POLLIN)
        said = b""
        while not said.endswith(line):
            while not poll.poll(deadline.pause() * 1000):
                if missed := deadline.missed():
                    self._end_qemu()
                    raise self._failed(missed, timed_out=True)
            # Byte by byte: the bytes after LINE belong to execnet.
            byte = os.read(self._from_guest, 1)
            if not byte:
                self._end_qemu()
                raise self._failed(f"ended (QEMU's status {self.returncode})", timed_out=False)
            said += byte

    @property
    def gateway_python(self) -> str:
        """What to write after `popen//python=` for execnet to run its worker in the guest."""
        # Without site-packages and PYTHON* variables it starts faster.
        command = [sys.executable, "-S", "-E", gateway.__file__, str(self.directory)]
        # execnet splits its specification at double slashes; in a path they mean one.
        return shlex.join(re.sub("//+", "/", argument) for argument in command)

    @property
    def alive(self) -> bool:
        """Whether QEMU runs. A guest that panics ends it."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """QEMU's exit status: negative for a signal, None while it runs."""
        return self._process.poll() if self._process else None

    def kill(self) -> None:
        """End the guest for good, as if its power had been cut; a `wait_ready` raises BootFailed.

        No error if it is dead already.
        """
        self._killed = True
        with self._starting:
            self._end_qemu()

    def _end_qemu(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def _check_not_killed(self) -> None:
        if self._killed:
            raise self._failed("was killed by this run", timed_out=False)

    def close(self) -> None:
        """End the guest and let go of its pipes; its logs stay in DIRECTORY."""
        self.kill()
        self._undo.close()

    def console_tail(self, *, lines: int = 40) -> str:
        """Return the end of the console, without control sequences."""
        return console.tail(self.console_log, count=lines)

    def _empty_console(self) -> None:
        with console_file.appending(self.console_log, empty=True):
            pass

    def errors_tail(self, *, lines: int) -> str:
        """Return the end of the standard error of the guest's Python, without empty lines."""
        return console.tail(self.directory / _ERRORS, count=lines)

    def _scaled(self, seconds: float) -> float:
        return seconds if self.acceleration.kvm else seconds * _TCG_FACTOR

    def _pipe(self, undo: ExitStack, name: str, mode: int) -> int:
        """Make a pipe, and return QEMU's end of it; our end stays open as long as the machine.

        The pipe has a name, for execnet starts the gateway, which inherits nothing from here. It is
        no socket, for QEMU reopens its standard streams through /proc, which sockets don't allow.
        """
        path = self.directory / name
        os.mkfifo(path, 0o600)
        self._undo.callback(path.unlink)
        # Opening a FIFO for both never waits; afterwards neither end waits for the other.
        both = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        undo.callback(os.close, both)
        theirs = os.open(path, mode | os.O_CLOEXEC)
        undo.callback(os.close, theirs)
        ours = os.open(path, (os.O_WRONLY if mode == os.O_RDONLY else os.O_RDONLY) | os.O_CLOEXEC)
        self._undo.callback(os.close, ours)
        if mode == os.O_WRONLY:
            self._from_guest = ours
        else:
            self._to_guest = ours
            # Room for all that is written before the guest reads: a guest that hangs blocks nobody.
            with suppress(PermissionError):
                fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return theirs

    def _failed(self, what: str, *, timed_out: bool) -> BootFailed:
        """Return the error that says what became of the guest, and why if that is known."""
        lacking = console.lacking(console.lines(self.console_log))
        happened = (
            f"Linux {self.kernel.release} {what} before its Python ran ({self.acceleration.reason})"
        )
        if lacking:
            happened = (
                f"Linux {self.kernel.release} can't run as a guest: it has no"
                f" {', '.join(lacking)}, built in or as a module"
            )
        if self.kernel.without_modules and not self.kernel.config:
            happened += f"; if it was built with modules, {self.kernel.without_modules}"
        if self.console_log.parent != self.directory:
            # A log in the machine's directory is removed with it.
            happened += f". Full console: {self.console_log}"
        quotes = [
            self.console_tail() or "(the console is empty)",
            self.errors_tail(lines=10),
            console.tail(self.directory / "qemu.log", count=10),
        ]
        message = "\n".join([happened, *filter(None, quotes)])
        return BootFailed(message, timed_out=timed_out, lacking=lacking)


def _in_lasting_thread(
    start: Callable[..., subprocess.Popen[bytes]], command: Sequence[str], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a QEMU in a thread that lives as long as this process.

    PR_SET_PDEATHSIG kills QEMU when the thread that started it ends (prctl(2)).
    """
    if threading.current_thread() is threading.main_thread():
        return start(command, **options)
    with _CHOOSING:
        starter = _starter()
    return starter.submit(start, command, **options).result()


@cache
def _starter() -> Executor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="qemu")


def _dying_with_parent() -> list[str]:
    """Return the beginning of a command that does not outlive the thread that starts it.

    setpriv sets PR_SET_PDEATHSIG and executes the shell, which inherits the setting. If this
    process died just before, the shell has another parent, and executes nothing. A preexec_fn would
    do the same, but can deadlock where other threads run, as execnet's do.
    """
    check = f'[ "$PPID" = {os.getpid()} ] && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", check, "sh"]
