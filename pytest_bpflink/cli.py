"""The `bpflink` command: finds out which command is meant, and what came of it.

Commands are in `commands`, a module each. They are written with argparse, which is in the standard
library and imported in 6 ms: a command in a warm guest takes half a second.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from pytest_bpflink.commands.output import INTERRUPTED, WRONG_USAGE, CommandError, say

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = ("doctor", "kernels", "vm", "links", "clean", "bisect", "completion")

_EXIT_STATUSES = """\
exit status:
  0    it was done, or all is well
  1    it could not be done, or the answer is no; what to do next is said
  2    wrong arguments
  130  interrupted
'bpflink vm' has that of the command it ran: see its --help.
"""

# Whoever read our output has closed it, as head does: what a shell says of SIGPIPE.
_UNREAD = 141


def main() -> NoReturn:
    """Be the command, and end without taking apart what was imported: that takes up to 20 ms."""
    status = _run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status)


def _run(given: list[str]) -> int:
    """Run the command that these arguments ask for."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # a shell asks, which `completion` has told how

        argcomplete.autocomplete(_parser(COMMANDS))
    # The others take 10 ms, and only --help and mistakes need them.
    parser = _parser([name for name in COMMANDS if name in given[:1]] or COMMANDS)
    # What follows is another program's, and may look like options.
    cut = given.index("--") if "--" in given else len(given)
    parsed = parser.parse_args(given[:cut])
    parsed.rest = given[cut + 1 :]
    if parsed.rest and not parsed.takes_rest:
        say(f"'bpflink {parsed.name}' runs no other program: leave out -- and what follows")
        return WRONG_USAGE
    try:
        status: int = parsed.run(parsed)
        sys.stdout.flush()
    except CommandError as error:
        say(str(error))
        return error.status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Else Python complains when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _UNREAD
    return status


def _parser(names: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
