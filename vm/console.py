"""A guest's console: what it says last, and what of it is a panic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Colours and cursor movements of the firmware (ECMA-48), and carriage returns.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-Z\\-_c]|[\r\x00-\x08\x0b-\x1f\x7f]")

_FATAL = re.compile(
    r"Kernel panic|\bOops\b|BUG:|kernel BUG at|general protection fault|Unable to handle kernel"
)

# When it was printed, with CONFIG_PRINTK_CALLER by which thread or processor.
_TIME = re.compile(r"^\[ *\d+\.\d+\](\[ *[TC]\d+\])? ")

_TAIL_BYTES = 1 << 18

# An oops with its registers, its trace, and the panic that it leads to.
_LONGEST_TRACE = 200


def lines(path: Path) -> list[str]:
    """Return the lines of a console file, without control sequences; none if there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    stripped = (_CONTROL.sub("", line).rstrip() for line in text.split("\n"))
    return [line for line in stripped if line]


def tail(path: Path, *, count: int) -> str:
    """Return the last lines of a console file; all from the oops on, where there is one."""
    text = lines(path)
    first = next((index for index, line in enumerate(text) if _FATAL.search(line)), len(text))
    start = max(min(first, len(text) - count), len(text) - _LONGEST_TRACE, 0)
    return "\n".join(text[start:])


def fatal(path: Path) -> list[str]:
    """Return the lines that say what a kernel died of, in the order they were printed."""
    return [line for line in lines(path) if _FATAL.search(line)]


def cause(text: str) -> str:
    """Return what a kernel died of, the first line in TEXT that says so; empty without one."""
    first = next((line for line in text.splitlines() if _FATAL.search(line)), "")
    return _TIME.sub("", first)
