"""Changes of lines in a kernel's sources, found by their function and their text.

A patch with context would fail with the next point release. An edit needs its own lines only, and
says which is missing.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Below the tree: each edited file as it was.
ORIGINALS = ".originals"


class EditError(Exception):
    """The sources have not the lines to edit; the message says which."""


@dataclass(frozen=True)
class Edit:
    """Lines of a function, and those to put in their place; indentation does not matter."""

    file: str
    function: str
    before: str
    after: str

    def edited(self, text: str) -> str:
        """Return the text of the file with the edit; raises EditError."""
        lines = r"\n[ \t]*".join(map(re.escape, self.before.split("\n")))
        wanted = re.compile(rf"^(?P<indent>[ \t]*){lines}$", re.MULTILINE)
        bodies = [match.span("body") for match in _definition(self.function).finditer(text)]
        if not bodies:
            raise EditError(f"{self.file} defines no function {self.function}")
        found = [match for body in bodies for match in wanted.finditer(text, *body)]
        if len(found) != 1:
            times = f"{len(found)} times" if found else "not"
            raise EditError(f"{self.file}: {self.function} has {times}: {self.before}")
        (match,) = found
        # The compiler warns of a line that seems to be guarded by the one before.
        after = textwrap.indent(self.after, match["indent"])
        return f"{text[: match.start()]}{after}{text[match.end() :]}"


@dataclass(frozen=True)
class Top:
    """A line to put before the first one of a file."""

    file: str
    line: str

    def edited(self, text: str) -> str:
        """Return the text of the file with the line."""
        return f"{self.line}\n{text}"


def edit_tree(tree: Path, edits: Sequence[Edit | Top]) -> None:
    """Make the files of a kernel's tree what they are with these edits, and no others.

    A file that is so already is not written, so that make compiles what changed. Raises EditError
    before it writes anything.
    """
    originals = tree / ORIGINALS
    known = {str(file.relative_to(originals)) for file in originals.rglob("*") if file.is_file()}
    wanted: dict[str, str] = {}
    for name in sorted(known | {edit.file for edit in edits}):
        source = (originals if name in known else tree) / name
        try:
            text = source.read_text()
        except FileNotFoundError:
            raise EditError(f"the sources have no {name}") from None
        # Backwards, so that the first of several top lines is the first line.
        for edit in reversed(edits):
            if edit.file == name:
                text = edit.edited(text)
        wanted[name] = text
    for name, text in wanted.items():
        file, original = tree / name, originals / name
        if name not in known:
            original.parent.mkdir(parents=True, exist_ok=True)
            original.write_text(file.read_text())
        if file.read_text() != text:
            file.write_text(text)


def _definition(function: str) -> re.Pattern[str]:
    """Return what finds a definition in the kernel's style: braces in the first column."""
    head = rf"^(?=[^\s#/*}}])[^;{{}}]*?\b{re.escape(function)}\([^;{{}}]*\)[^;{{}}]*?\n\{{"
    return re.compile(rf"{head}(?P<body>\n.*?)\n\}}", re.MULTILINE | re.DOTALL)
