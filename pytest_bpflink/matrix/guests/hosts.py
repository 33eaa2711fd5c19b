"""Guests on other hosts: `--kernel-host ssh=HOST`.

Knows execnet's connections to hosts, and which host has the guests of which kernel; `host_server`
is the program there. xdist's workers reach their guests through proxies on these hosts (`--px`,
`via=`): with `ssh=` in a worker's specification xdist 3.8 copies the tree, and fails on path
arguments.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from pytest_bpflink.building import compilation
from pytest_bpflink.matrix.guests.virtual_machines import GuestOptions
from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.kernels import Kernel, KernelError
from pytest_bpflink.vm.machines import console_file
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import BootFailed, MachineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from execnet import Channel

    from pytest_bpflink.building.recipe import Made, Recipe
    from pytest_bpflink.matrix.guests.machines import Machine

# Seconds to wait for an answer: where the host has nothing to do but answer, where it compiles or
# makes the image of guests, and where it fetches a kernel.
_ANSWER_SECONDS = 60.0
_WORK_SECONDS = 600.0
_FETCH_SECONDS = 3600.0

# A host answers `wait_ready` itself in the end. It gives a guest its timeout several times, five
# times as long without KVM: until another run has saved that guest, then to boot and to restore it.
_TIMEOUTS_OF_A_BOOT = 30

_SERVER = f"from {__name__.rpartition('.')[0]} import host_server; host_server.serve(channel)"


# A user, and a name or an address. ssh takes a word that begins with "-" for an option, and execnet
# splits the value at spaces, and its specification at double slashes.
_DESTINATION = re.compile(r"(\w[\w.-]*@)?(\w[\w.-]*|[0-9a-fA-F:]+(%\w+)?)")


def proxies(values: Sequence[str]) -> list[str]:
    """Return the values to add to xdist's --px. Raises UsageError for a value that is no host."""
    for value in values:
        scheme, _, destination = value.partition("=")
        if scheme != "ssh":
            raise pytest.UsageError(f"--kernel-host {value}: write --kernel-host ssh=HOST")
        if not _DESTINATION.fullmatch(destination):
            raise pytest.UsageError(
                f"--kernel-host {value}: {destination!r} is no host name, nor USER@HOST; options of"
                " ssh, as a port, belong into ~/.ssh/config"
            )
    return [
        # A proxy serves several workers at once, each in a thread.
        f"id=host{number}//{_address(value)}//execmodel=thread"
        for number, value in enumerate(values, 1)
    ]


def _address(value: str) -> str:
    """Return execnet's specification of a host: ssh asks no question, and gives up after 20 s."""
    destination = value.removeprefix("ssh=")
    options = "-o BatchMode=yes -o ConnectTimeout=20"
    return f"ssh={options} {destination}//python={sys.executable}"


class Connection(Protocol):
    """A program that runs on another host; `xdist_loop.HostConnection` is one."""

    channel: Channel

    def close(self) -> None:
        """End the program."""


#: Connects to a host, by its address for execnet, and runs a program there. Raises OSError,
#: EOFError or AssertionError.
Connect = Callable[[str, str], Connection]


class Host:
    """Another host, and the `host_server` that starts guests on it."""

    def __init__(
        self, value: str, *, proxy: str, connect: Connect, say: Callable[[str], None], **begin: Any
    ) -> None:
        """Connect, and send BEGIN. Raises UsageError if that fails or the host lacks the tree.

        SAY gets the lines that the host sends for the terminal.
        """
        self.name = f"--kernel-host {value}"
        self.proxy = proxy
        self._say = say
        self._numbers = count(1)
        # By the number of a request that waits: its answer, None until that comes.
        self._answers: dict[int, tuple[str | None, Any] | None] = {}
        self._changed = threading.Condition()
        self._gone = False
        try:
            self._connection = connect(_address(value), _SERVER)
            self._channel = self._connection.channel
            self._channel.setcallback(self._take, endmarker=None)
            facts = self.ask("begin", **begin)
        except (OSError, EOFError, AssertionError, MachineError) as error:
            raise pytest.UsageError(
                f"{self.name}: {sys.executable} with this project could not be started there"
                f" ({type(error).__name__}: {error}). The tree and its Python are expected at the"
                " same paths as here, and ssh has to work without a question"
            ) from None
        if facts["missing"]:
            raise pytest.UsageError(
                f"{self.name}: {', '.join(facts['missing'])} is not there; the tree is expected at"
                " the same path as here"
            )
        self.free_cores: float = facts["free_cores"]

    def ask(self, what: str, *, patience: float = _ANSWER_SECONDS, **arguments: Any) -> Any:
        """Have the host do something, and return its answer.

        Raises MachineError if the host answers with an error, has not answered after PATIENCE
        seconds, or the connection is lost.
        """
        number = next(self._numbers)
        self._answers[number] = None
        try:
            self._channel.send((number, what, arguments))
        except OSError:
            self._gone = True
        with self._changed:
            self._changed.wait_for(lambda: self._answers[number] or self._gone, patience)
            answer = self._answers.pop(number)
        if answer is None and self._gone:
            raise MachineError(f"{self.name}: the connection is lost")
        if answer is None:
            raise MachineError(
                f"{self.name} did not answer within {patience:g} s ({what}), and the connection"
                " stands: see whether that host is overloaded, or run without it"
            )
        error, value = answer
        if error is not None:
            raise MachineError(f"{self.name}: {error}")
        return value

    def close(self) -> None:
        """End the connection, and with it all guests there."""
        self._connection.close()

    def _take(self, message: tuple[int, str | None, Any] | str | None) -> None:
        if isinstance(message, str):
            self._say(message)
            return
        with self._changed:
            if message is None:
                self._gone = True
            else:
                number, error, value = message
                # No request waits for an answer that comes too late.
                if number in self._answers:
                    self._answers[number] = error, value
            self._changed.notify_all()


class HostedMachines:
    """Machines on other hosts: all machines with one kernel are on one host."""

    def __init__(
        self, config: pytest.Config, connect: Connect, *, say: Callable[[str], None]
    ) -> None:
        """Connect to the hosts that `--kernel-host` names. SAY gets lines for the terminal."""
        self._option = config.option
        self._say = say
        cwd = str(config.invocation_params.dir)
        named = [cwd, *(argument.partition("::")[0] for argument in config.args)]
        begin = {
            "paths": [os.path.abspath(path) for path in named if os.path.exists(path)],
            "cwd": cwd,
            "options": asdict(GuestOptions.of(config)),
        }
        self._hosts: list[Host] = []
        try:
            for number, value in enumerate(config.option.kernel_host, 1):
                proxy = f"host{number}"
                self._hosts.append(Host(value, proxy=proxy, connect=connect, say=say, **begin))
        except BaseException:
            self.close()
            raise
        self._placed: dict[str, tuple[Host, Acceleration]] = {}

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        """Find a kernel on the host with most free cores, where its guests will be."""
        host = max(self._hosts, key=lambda host: host.free_cores)
        progress(f"{spec}: on {host.name.partition('=')[2]}")
        try:
            facts = host.ask("find", patience=_FETCH_SECONDS, spec=spec)
        except MachineError as error:
            raise KernelError(str(error)) from None
        host.free_cores -= self._option.kernel_workers * self._option.kernel_cpus
        where = f"{facts['reason']}, {host.name.removeprefix('--kernel-host ')}"
        self._placed[spec] = host, Acceleration(kvm=facts["kvm"], reason=where)
        image, release = Path(facts["image"]), facts["release"]
        return Kernel(spec, facts["id"], release, image, None, {}, facts["version"])

    def acceleration(self, kernel: Kernel) -> Acceleration:
        """Return KVM or TCG, as the kernel's host says, with the reason."""
        return self._placed[kernel.spec][1]

    def compile(self, sources: Sequence[Path], libbpfs: Sequence[str]) -> None:
        """Compile BPF programs on each host for its guests; a host that fails says so."""
        del libbpfs  # the hosts have them
        for host in self._hosts:
            names = [str(source) for source in sources]
            try:
                host.ask("compile", patience=_WORK_SECONDS, sources=names)
            except MachineError as error:
                self._say(str(error))

    def made(self, spec: str, recipe: Recipe) -> Made | None:
        """Return what becomes of a recipe here, unless the guests are of another architecture."""
        arch, _ = architectures.split(spec)
        return None if arch else compilation.made(recipe)

    def via(self, kernel: Kernel) -> str:
        """Return the proxy on the host that has this kernel."""
        return self._placed[kernel.spec][0].proxy

    def machine(self, kernel: Kernel, *, directory: Path, console_log: Path | None) -> Machine:
        """Return a machine that is not started yet."""
        del directory
        return HostedMachine(self._placed[kernel.spec][0], kernel.spec, console_log)

    def close(self) -> None:
        """End the connections to the hosts."""
        for host in self._hosts:
            host.close()


class HostedMachine:
    """A machine on another host; see `vm.machines.machine.Machine` for what its methods promise."""

    _numbers = count(1)

    def __init__(self, host: Host, spec: str, console_log: Path | None) -> None:
        self._host = host
        self._spec = spec
        self._console_log = console_log
        self._number = next(self._numbers)
        self._started = False
        self.gateway_python = ""

    def start(self) -> None:
        """Begin to boot on the host."""
        # A machine that the host starts after `ask` gave up must be closed too.
        self._started = True
        self.gateway_python = self._host.ask(
            "start",
            patience=_WORK_SECONDS,
            machine=self._number,
            spec=self._spec,
            environment=dict(os.environ),
        )

    def wait_ready(self, timeout: float) -> None:
        """Wait until a worker can start; raise BootFailed also if its host is lost or hangs."""
        patience = _TIMEOUTS_OF_A_BOOT * timeout
        try:
            self._host.ask("wait_ready", patience=patience, machine=self._number, timeout=timeout)
        except MachineError as error:
            raise BootFailed(str(error), timed_out=False) from None

    def kill(self) -> None:
        """End it. A lost connection is no error: the host has ended its guests then."""
        if self._started:
            with suppress(MachineError):
                self._host.ask("kill", machine=self._number)

    def close(self) -> None:
        """End it, and fetch its console if `--kernel-log` is to keep that."""
        if not self._started:
            return
        self._started = False
        if self._console_log:
            with suppress(MachineError):
                said = self._host.ask("console", machine=self._number)
                with console_file.appending(self._console_log, empty=True) as file:
                    os.write(file, said)
        with suppress(MachineError):
            self._host.ask("close", machine=self._number)

    def console_tail(self, *, lines: int) -> str:
        """Return the end of the kernel's console, or why the host does not give it."""
        try:
            return str(self._host.ask("console_tail", machine=self._number, lines=lines))
        except MachineError as error:
            return str(error)

    def errors_tail(self, *, lines: int) -> str:
        """Return the end of its Python's standard error; nothing, if its host is lost."""
        try:
            return str(self._host.ask("errors_tail", machine=self._number, lines=lines))
        except MachineError:
            return ""
