"""What an xdist worker runs on: a machine, the next machine when that one died, or a stand-in.

Knows how many machines a worker may use up, and the last words of a dead one. `machines` defines
machines; `controller` notices that a worker is lost.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from pytest_bpflink.matrix.guests import last_words, machines
from pytest_bpflink.matrix.guests.last_words import LastWords
from pytest_bpflink.matrix.guests.virtual_machines import GuestOptions, VirtualMachines
from pytest_bpflink.session.terminal import Progress
from pytest_bpflink.vm.machines import console_file
from pytest_bpflink.vm.machines.errors import BootFailed, MachineError
from pytest_bpflink.vm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from pytest_bpflink.matrix.guests.hosts import Connect
    from pytest_bpflink.matrix.guests.machines import Machine, Machines
    from pytest_bpflink.matrix.messages import FreshItem
    from pytest_bpflink.session.kernel import MatrixKernel
    from pytest_bpflink.vm.kernels import Kernel

# Under KVM; an emulating machine multiplies it. Guests that boot together share cores.
_BOOT_SECONDS = 60.0

# An OOM kill may be followed by the report of another one, which has 100 lines.
_CONSOLE_LINES = 400
# faulthandler shows up to 100 threads, each with up to 100 frames.
_ERROR_LINES = 1000
_HINT = " (--kernel-log DIR keeps the whole console)"


class Guest:
    """The machines that one xdist worker runs on, one after the other.

    When a guest has used up its restarts, or its kernel does not boot, it becomes a stand-in: a
    worker on the host that collects like the others, and reports each item as an error that says
    why.
    """

    def __init__(
        self,
        kernel: MatrixKernel,
        new_machine: Callable[[], Machine],
        *,
        name: str,
        restarts: int,
        item: FreshItem | None = None,
        via: str | None = None,
    ) -> None:
        """ITEM is the only item that this guest is for; None if it is for any item.

        VIA is the id of xdist's proxy that reaches the machines, if they are on another host.
        """
        self.kernel = kernel
        self.name = name
        self._via = via
        self.item = item
        self._workers = 0
        self._new_machine = new_machine
        self._machine: Machine | None = None
        self._restarts_left = restarts
        self._began = 0.0
        self._is_over = False
        self.died = 0
        self.booting = False
        #: How long the latest boot took, in seconds; 0.0 before the first.
        self.boot_seconds = 0.0
        #: Why the watchdog killed the machine, if it did.
        self.verdict = ""
        #: Why no item of this worker is run, once it is a stand-in.
        self.stand_in: str | None = None
        #: Whether its worker is needed no more.
        self.retired = False

    @property
    def is_machine(self) -> bool:
        """Whether the worker is in a machine, which can be killed, and not on this host."""
        return not self.kernel.is_native and self.stand_in is None

    @property
    def python(self) -> str:
        """The command that execnet starts as this worker's Python."""
        return (self._machine or machines.ThisMachine).gateway_python

    @property
    def via(self) -> str | None:
        """The id of xdist's proxy that reaches the worker; None for a worker on this host."""
        return self._via if self.is_machine else None

    def next_worker_id(self) -> str:
        """Return an id for the worker that is about to start: 6.1, then 6.1~2."""
        self._workers += 1
        return self.name if self._workers == 1 else f"{self.name}~{self._workers}"

    def boot(self) -> None:
        """Start a machine, and return at once; `wait_ready` waits until it has booted.

        Raises MachineError if this host can't start a machine.
        """
        self.verdict = ""
        self._began = time.monotonic()
        try:
            self._machine = self._new_machine()
            if self._is_over:  # `end` was called meanwhile, and saw no machine
                self._machine.kill()
            self._machine.start()
        except OSError as error:
            raise MachineError(f"a file of the guest can't be written: {error}") from None
        self.booting = not self.kernel.is_native

    def wait_ready(self) -> None:
        """Wait until the machine is ready, or become a stand-in; any thread may call it."""
        if self._machine is None:
            return
        try:
            self._machine.wait_ready(_BOOT_SECONDS)
        except BootFailed as error:
            self.give_up(f"{self._title} did not boot{_HINT}: {error}")
        except (MachineError, OSError) as error:
            self.give_up(f"{self._title} could not be started: {error}")
        else:
            self.boot_seconds = time.monotonic() - self._began
        self.booting = False

    def last_words(self) -> LastWords:
        """Return the evidence for its death, or for its worker's."""
        if self.kernel.is_native or self._machine is None:
            return LastWords("")
        return last_words.in_guest(
            console_tail=self._machine.console_tail(lines=_CONSOLE_LINES),
            errors_tail=self._machine.errors_tail(lines=_ERROR_LINES),
            verdict=self.verdict,
        )

    def replace(self, reason: str) -> None:
        """Boot another machine in place of the dead one; without restarts left, stand in.

        Returns while the machine boots.
        """
        self.died += 1
        if not self._restarts_left:
            self.give_up(
                f"{self._title} lost {self.died} workers, and gets no more guests.\n{reason}"
            )
            return
        self._restarts_left -= 1
        self.renew()

    def renew(self) -> None:
        """Boot another machine, without using up a restart; return while it boots."""
        self.close()
        if self._is_over:
            self.give_up(f"{self._title} is not started again, since the session is over")
            return
        try:
            self.boot()
        except MachineError as error:
            self.give_up(f"{self._title} could not be started again: {error}")

    def retire(self) -> None:
        """End the machine for good: no item is left for it."""
        self.retired = True
        self.close()

    def recall(self, reason: str) -> None:
        """Undo `retire`, and `replace` the machine: a plugin runs an item again."""
        self.retired = False
        self.replace(reason)

    def give_up(self, reason: str) -> None:
        """Become a stand-in."""
        self.stand_in = reason
        self.booting = False
        self.close()

    def kill(self) -> None:
        """End the machine now; `close` must follow."""
        if self._machine:
            self._machine.kill()

    def end(self) -> None:
        """End the machine, and start no other: the session is over; `close` must follow."""
        self._is_over = True
        self.kill()

    def close(self) -> None:
        """End the machine, and leave nothing of it behind."""
        if self._machine:
            self._machine.close()
            self._machine = None

    @property
    def _title(self) -> str:
        return f"kernel {self.kernel.id} (Linux {self.kernel.release})"


class GuestFactory:
    """Makes the guests of a run, each machine with a directory and a console log of its own."""

    def __init__(self, config: pytest.Config, *, restarts: int, connect: Connect) -> None:
        """RESTARTS is the number of machines that a worker may use up beyond its first.

        CONNECT is used where `--kernel-host` names other hosts.
        """
        self.machines = _machines_of(config, connect)
        log: Path | None = config.option.kernel_log
        self._log = log and log.absolute()
        self._restarts = restarts
        self._scratch = Scratch()
        self._made = 0

    def native(self, kernel: MatrixKernel, *, name: str) -> Guest:
        """Return a guest that is this machine: its worker runs here, without a VM."""
        return Guest(kernel, machines.ThisMachine, name=name, restarts=self._restarts)

    def guest(
        self, kernel: MatrixKernel, found: Kernel, *, name: str, item: FreshItem | None = None
    ) -> Guest:
        """Return a guest with a kernel; a guest for a single item has one restart."""
        new = partial(self._machine, found, name)
        restarts = 1 if item else self._restarts
        via = self.machines.via(found)
        return Guest(kernel, new, name=name, restarts=restarts, item=item, via=via)

    def compile_elsewhere(self, sources: Sequence[Path], libbpfs: Sequence[str]) -> None:
        """Compile BPF programs on the other hosts: each guest sees the cache of its own host.

        Packed guests see none: they are sent what was compiled here, and the files LIBBPFS.
        """
        self.machines.compile(sources, libbpfs)

    def close(self) -> None:
        """Remove the directories of all machines; they must be closed before."""
        self.machines.close()
        self._scratch.close()

    def _machine(self, found: Kernel, name: str) -> Machine:
        self._made += 1
        # A name this short leaves room in a socket's path of 107 bytes.
        directory = self._scratch.path / str(self._made)
        directory.mkdir()
        return self.machines.machine(
            found, directory=directory, console_log=self._console_log(name)
        )

    def _console_log(self, name: str) -> Path | None:
        if self._log is None:
            return None
        console_file.refuse_planted_links(self._log)
        self._log.mkdir(parents=True, exist_ok=True)
        return self._log / f"{name}-{self._made}.log"


def _machines_of(config: pytest.Config, connect: Connect) -> Machines:
    """Return where machines come from: this host, or the hosts that `--kernel-host` names."""
    if config.stash.get(machines.MACHINES, None):
        return config.stash[machines.MACHINES]
    option, say = config.option, Progress(config).line
    if not option.kernel_host:
        return VirtualMachines(
            GuestOptions.of(config),
            cwd=config.invocation_params.dir,
            say=say,
            writable=option.kernel_rw,
        )
    from pytest_bpflink.matrix.guests import hosts  # it imports execnet's connections

    return hosts.HostedMachines(config, connect, say=say)
