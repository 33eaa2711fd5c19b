"""The pages of the documentation, and the code in them.

Each block of Python, C or TOML is a file, named by a comment on its first line. The files of a page
and of the README together are a project. Its tests pass, or are skipped if a mark says what they
require. In a file that begins with `# test_it.py, which fails` all tests fail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"(?:# |/\* )(\S+\.\w+)(, which fails)?(?: \*/)?\n")


@dataclass
class Page:
    """The files and the commands of a page."""

    files: dict[str, str] = field(default_factory=dict)
    fail: list[str] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def tests(self) -> list[str]:
        """The files with tests."""
        return [name for name in self.files if name.startswith("test_")]

    @property
    def failing(self) -> int:
        """How many tests fail."""
        return sum(_tests_in(self.files[name]) for name in self.fail)

    @property
    def passing(self) -> int:
        """How many tests pass, on a kernel that lacks nothing they require."""
        return sum(_tests_in(self.files[name]) for name in self.tests) - self.failing

    @property
    def depending(self) -> int:
        """How many tests may be skipped."""
        marks = re.compile(r"^@pytest\.mark\.(?:bpf_requires|kernel|guest_only)", re.MULTILINE)
        return sum(len(marks.findall(self.files[name])) for name in self.tests)


def read(file: Path) -> Page:
    """Return the files and the commands of a page."""
    page = Page()
    for language, text in _BLOCK.findall(file.read_text()):
        if language == "console":
            page.commands += re.findall(r"^\$ (.*)$", text.replace("\\\n", ""), re.MULTILINE)
        if language not in {"python", "c", "toml"}:
            continue
        named = _NAME.match(text)
        if not named:
            page.nameless.append(text)
            continue
        page.files[named[1]] = text
        page.fail += [named[1]] if named[2] else []
    return page


def _tests_in(text: str) -> int:
    return len(re.findall("^def test_", text, re.MULTILINE))
