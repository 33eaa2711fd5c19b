"""How commands write: tables for people, JSON for programs, sentences for errors.

Rich is imported only here, and only for people. Without it, tables are lists, and `--watch` is
refused.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

# In a pipe lines are not folded: the program that reads them may cut them.
_WIDTH_IN_A_PIPE = 1000

# Between two columns of a table.
_GAP = 3


class CommandError(Exception):
    """A command can't do what it was asked to; the message says why, and what to do next."""

    def __init__(self, message: str, *, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


def console(*, errors: bool = False) -> Console:
    """Return the terminal as rich sees it. Raises `CommandError` where rich is not installed."""
    try:
        from rich.console import Console
    except ImportError:
        raise CommandError(
            "this needs rich, which is not installed: pip install 'pytest-bpflink[cli]'"
            " (or add --json)"
        ) from None
    stream = sys.stderr if errors else sys.stdout
    return Console(file=stream, highlight=False, width=_width(stream))


def _width(stream: TextIO) -> int:
    return shutil.get_terminal_size().columns if stream.isatty() else _WIDTH_IN_A_PIPE


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "", whole: str = ""
) -> str:
    """Return a table for the terminal, without columns that are empty.

    RIGHT names columns of numbers, and WHOLE others that are not folded. Where a table would break
    words to fit the terminal, and without rich, it is a list instead.
    """
    kept = list(rows)
    filled = [at for at in range(len(columns)) if any(row[at] for row in kept)]
    columns = [columns[at] for at in filled]
    kept = [[row[at] for at in filled] for row in kept]
    unfolded = {*right.split(), *whole.split()}
    least = [
        max(len(part) for cell in (column, *cells) for part in _parts(cell, column in unfolded))
        for column, *cells in zip(columns, *kept, strict=True)
    ]
    fits = sum(least) + _GAP * (len(least) - 1) <= _width(sys.stdout)
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        fits = False
    if not fits:
        return "\n".join(_as_list(columns, row, _width(sys.stdout)) for row in kept)

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column, width in zip(columns, least, strict=True):
        justify: Literal["left", "right"] = "right" if column in right.split() else "left"
        made.add_column(column, justify=justify, no_wrap=column in unfolded, min_width=width)
    for row in kept:
        made.add_row(*(Text(cell) for cell in row))
    stream = io.StringIO()
    shown = Console(file=stream, force_terminal=sys.stdout.isatty(), width=_width(sys.stdout))
    shown.print(made)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _parts(cell: str, unfolded: bool) -> list[str]:  # noqa: FBT001
    """Return the parts of a cell that stay on one line each."""
    return (cell.splitlines() if unfolded else cell.split()) or [""]


def _as_list(columns: Sequence[str], row: Sequence[str], width: int) -> str:
    lines = []
    for at, (column, cell) in enumerate(zip(columns, row, strict=True)):
        first, *more = cell.splitlines() or [""]
        margin = "  " if at else ""
        lines += _filled(f"{margin}{column}: {first}", width) if cell else []
        lines += [line for text in more for line in _filled(f"    {text}", width)]
    return "\n".join([*lines, ""])


def _filled(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def write(text: str) -> None:
    """Write a line to stdout. Raises `CommandError` where that fails, as on a full disk."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"the output can't be written: {error.strerror}") from None


def lost_directory() -> str:
    """Return a sentence about the current directory if it was removed, or else an empty string."""
    try:
        os.getcwd()
    except FileNotFoundError:
        gone = os.readlink("/proc/self/cwd").removesuffix(" (deleted)")
        return f"{gone}, the current directory, was removed: change to another one"
    return ""


def print_json(value: Any) -> None:
    """Write a value for programs, in one document."""
    # In one piece: json.dump() writes word by word, each a system call with PYTHONUNBUFFERED.
    write(json.dumps(value, indent=2, default=str))


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
    try:
        shown = console(errors=True)
    except CommandError:
        yield say
        return
    with shown.status("") as status:
        yield status.update


def size(number: float) -> str:
    """Write a number of bytes as people read it: 17 KiB, 540 MiB, 1.2 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
