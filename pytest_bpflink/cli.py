"""The `bpflink` command: chooses the subcommand, runs it, and exits with its status.

Each subcommand is a module in `commands`. They use argparse, which is in the standard library and
takes 6 ms to import: a command in a warm guest takes half a second.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from pytest_bpflink.commands.output import (
    FAILED,
    INTERRUPTED,
    WRONG_USAGE,
    CommandError,
    lost_directory,
    say,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("doctor", "kernels", "vm", "verify", "links", "clean", "bisect", "completion")

_EXIT_STATUSES = """\
exit status:
  0    success
  1    failure, or the answer is no; a message says what to do next
  2    wrong arguments
  130  interrupted
'bpflink vm' exits with the status of the command that it ran: see its --help.
"""

# What a shell reports for SIGPIPE: the reader of our output closed it, as head does.
_UNREAD = 141


def main() -> NoReturn:
    """Run the command, and exit without Python's clean-up of modules, which takes up to 20 ms."""
    _open_missing_streams()
    try:
        status = _run(sys.argv[1:])
    except SystemExit as left:  # argparse has shown the help, or what is wrong
        status = int(left.code or 0)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def _open_missing_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed.

    Otherwise the next file that is opened would get its number, and the output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, "r+" if number else "r", closefd=False))  # noqa: SIM115


def _run(given: list[str]) -> int:
    """Run the command that these arguments ask for."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # a shell asks, by the code that `completion` printed

        argcomplete.autocomplete(_parser(COMMANDS))
    # Only --help and wrong arguments need all commands, whose import takes 10 ms.
    parser = _parser([name for name in COMMANDS if name in given[:1]] or COMMANDS)
    # The words after -- belong to another program, and may look like our options.
    cut = given.index("--") if "--" in given else len(given)
    try:
        parsed = parser.parse_args(given[:cut])
        parsed.rest = given[cut + 1 :]
        if parsed.rest and not parsed.takes_rest:
            raise CommandError(
                f"'bpflink {parsed.name}' runs no other program: leave out -- and the words after"
                " it",
                status=WRONG_USAGE,
            )
        status: int = parsed.run(parsed)
    except CommandError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _UNREAD
    except FileNotFoundError:
        lost = lost_directory()
        if not lost:
            raise
        say(lost)
        return FAILED
    finally:
        # A command that uses nothing of the cache has not imported the module.
        cache = sys.modules.get("pytest_bpflink.vm.cache")
        for refusal in cache.refusals() if cache else ():
            say(refusal)
    return status


class _Parser(argparse.ArgumentParser):
    """Shows its help, or says that the help can't be written, which argparse does not report."""

    def print_help(self, _file: object = None) -> None:
        write(self.format_help().rstrip())


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bpflink",
        description="BPF links, and the kernels to test them on.",
        epilog=_EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name in names:
        module = importlib.import_module(f"pytest_bpflink.commands.{name}")
        what, _, more = (module.__doc__ or name).partition("\n\n")
        command = commands.add_parser(
            name,
            help=what[:-1],
            description=f"{what}\n\n{more}".strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=module.run, name=name, takes_rest=False)
        module.add(command)
    return parser


if __name__ == "__main__":
    main()
