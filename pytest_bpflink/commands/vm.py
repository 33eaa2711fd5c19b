"""Run a command, or a shell, in another kernel.

    bpflink vm 6.12 -- uname -r
    bpflink vm ~/linux -- ./reproducer < input | grep splat
    bpflink vm 6.1

The kernel runs in a guest, a virtual machine that ends with the command. There the command is root,
sees this host's files as they are, and has your directory and environment. The files that it writes
are lost with the guest, except in the directory of --rw. Standard streams, the terminal and its
size, signals and the exit status are as if the command ran here.

If the kernel has no 9p, as most clouds' kernels, the command sees copies: of your directory, of
Python with its packages, and busybox in place of other programs.

While the guest starts, what you type is kept for the command.

On a terminal, Ctrl-C goes to the command, and three times Ctrl-] ends the guest. Elsewhere three
times Ctrl-C ends the guest.

The first use of a kernel saves a guest, which takes some seconds; later uses restore this guest.

exit status:
  N         the command's exit status
  1         the command's output could not be written here, as on a full disk
  128+N     signal N ended the command
  121       the guest died, for example of a panic; the end of its console is shown
  125       the kernel was not found, or no guest could be started
  126, 127  the command can't be run, or was not found
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.commands.output import FAILED, CommandError, lost_directory, say
from pytest_bpflink.commands.specs import stored_specs
from pytest_bpflink.session.arguments import guest_memory, writable_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pytest_bpflink.vm.image.inventory import Inventory
    from pytest_bpflink.vm.image.packed_root import PackedRoot
    from pytest_bpflink.vm.machines.machine import Machine

# `git bisect run` takes 121, which no shell uses itself, as bad, and 125 as "can't be tested".
_DIED, _NOT_RUN = 121, 125

_BOOT_SECONDS = 60.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.usage = "bpflink vm [options] SPEC [-- COMMAND...]"
    kernel = parser.add_argument(
        "spec", metavar="SPEC", help="The kernel: a release (6.1, 6.1.176), lts, newest, a path..."
    )
    kernel.completer = stored_specs  # type: ignore[attr-defined]
    parser.add_argument(
        "--memory",
        type=guest_memory,
        default=512,
        metavar="MIB",
        help="The guest's memory (default: 512 MiB)",
    )
    parser.add_argument(
        "--cpus",
        type=_positive,
        default=1,
        metavar="N",
        help="The guest's processors (default: 1)",
    )
    parser.add_argument(
        "--append", action="append", default=[], metavar="PARAMETERS", help="Kernel parameters"
    )
    parser.add_argument(
        "--rw",
        type=writable_directory,
        metavar="DIR",
        help="A directory of this host that the command may write to",
    )
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="A file for the log of the guest's console"
    )
    parser.set_defaults(takes_rest=True)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its status."""
    # By default these signals end Python at once, and would leave the guest's directory behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit)
    from pytest_bpflink.vm import kernels
    from pytest_bpflink.vm.machines import session
    from pytest_bpflink.vm.machines.errors import MachineError
    from pytest_bpflink.vm.scratch import Scratch

    lost = lost_directory()
    if lost:
        raise CommandError(lost, status=_NOT_RUN)
    command = arguments.rest or [os.environ.get("SHELL") or "/bin/sh"]
    with Scratch() as scratch, contextlib.ExitStack() as undo:
        try:
            with _starting(arguments.spec) as told:
                machine = _machine(arguments, command, scratch.path / "guest", told)
                undo.enter_context(machine)
                machine.start()
                machine.wait_ready(_BOOT_SECONDS)
            status = session.run(machine)
            if status is None:
                return _obituary(machine)
        except session.Unwritable as error:
            status = _as_shells_do(error.status or FAILED)
            raise CommandError(str(error), status=status) from None
        except (kernels.KernelError, MachineError, OSError) as error:
            raise CommandError(str(error), status=_NOT_RUN) from None
    return _as_shells_do(status)


def _as_shells_do(status: int) -> int:
    return 128 - status if status < 0 else status


@contextlib.contextmanager
def _starting(spec: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that the guest starts, and yield the way to say more meanwhile."""
    if not all(map(os.isatty, range(3))):
        yield say
        return

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")  # in place of the line's text
        sys.stderr.flush()

    def told(text: str) -> None:
        show("")
        say(text)
        show(line)

    line = f"bpflink: starting {spec}"
    show(line)
    try:
        yield told
    finally:
        show("")


def _machine(
    arguments: argparse.Namespace, command: list[str], directory: Path, told: Callable[[str], None]
) -> Machine:
    from pytest_bpflink.vm import kernels
    from pytest_bpflink.vm.kernels.drivers import is_packed
    from pytest_bpflink.vm.machines import kvm, session
    from pytest_bpflink.vm.warm.warm import WarmMachine

    kernel = kernels.find(arguments.spec, progress=told)
    return WarmMachine(
        kernel,
        parcel=functools.partial(_parcel, told) if is_packed(kernel) else None,
        acceleration=kvm.detect(kernel),
        directory=directory,
        cwd=Path.cwd(),
        environment=dict(os.environ),
        session=session.call(command),
        writable=arguments.rw,
        memory_mib=arguments.memory,
        cpus=arguments.cpus,
        append=tuple(word for text in arguments.append for word in text.split()),
        console_log=arguments.log and arguments.log.absolute(),
        say=told,
    )


def _parcel(told: Callable[[str], None], inventory: Inventory, packed: PackedRoot) -> bytes:
    """Return what a guest gets that can't see this host's files: the working directory."""
    from pytest_bpflink.vm.warm import parcel

    here = Path.cwd()
    trees = (here, *parcel.outside(inventory.path, packed.directories))
    return parcel.compose(parcel.Contents(trees, empty=(here,)), say=told)


def _obituary(machine: Machine) -> int:
    from pytest_bpflink.vm.machines import console

    tail = machine.console_tail()
    cause = console.cause(tail)
    if cause:
        say(f"the guest died: {cause}\n{tail}")
    elif machine.returncode == -signal.SIGKILL:
        say("the guest was ended")
    else:
        say(f"the guest ended before the command did\n{tail}")
    return _DIED


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not number:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number
