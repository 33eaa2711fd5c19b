"""How commands write: rich tables for people, JSON for programs, sentences for errors.

Rich is imported only here, and only for people: `--json` and `vm` work without it.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class CommandError(Exception):
    """A command can't do what it was asked to; the message says why, and what to do next."""

    def __init__(self, message: str, *, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def console(*, errors: bool = False) -> Console:
    """Return the terminal as rich sees it. Raises `CommandError` where rich is not installed."""
    try:
        from rich.console import Console  # `--json` and `vm` work without it
    except ImportError:
        raise CommandError(
            "tables for people need rich, which is not installed:"
            " pip install 'pytest-bpflink[cli]' (or add --json)"
        ) from None
    # In a pipe lines are not folded: the program that reads them may cut them.
    shown = Console(stderr=errors, highlight=False, soft_wrap=True)
    if not shown.is_terminal:
        shown.width = 1000
    return shown


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "", whole: str = ""
) -> Table:
    """Return a table; RIGHT names columns of numbers, and WHOLE others that are not folded."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        numbers = column in right.split()
        # Long texts are folded, not cut: nobody can use a path that ends in dots.
        made.add_column(
            column,
            justify="right" if numbers else "left",
            no_wrap=numbers or column in whole.split(),
            overflow="fold",
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def print_json(value: Any) -> None:
    """Write a value for programs, in one document."""
    # In one piece: json.dump() writes word by word, each a system call with PYTHONUNBUFFERED.
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Write a line to stderr: which step takes time, or what went otherwise than asked for."""
    sys.stderr.write(f"bpflink: {text}\n")
    sys.stderr.flush()


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Yield a function that says which step takes time: on a terminal always in the same line."""
    if not sys.stderr.isatty():
        yield say
        return
    with console(errors=True).status("") as shown:
        yield shown.update


def size(number: float) -> str:
    """Write a number of bytes as people read it: 17 KiB, 540 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
