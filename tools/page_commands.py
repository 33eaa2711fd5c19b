"""Writes the files of documentation pages, and prints the pages' commands.

    python -m tools.page_commands DIRECTORY PAGE...

`tools/other-debian` runs them. Left out are files whose tests fail on purpose, and commands that a
reader runs elsewhere than in the directory of the page.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.support.pages import read

# `make` is for a checkout of the project; kernel sources and a test to bisect are the reader's.
_ELSEWHERE = re.compile(r"make |.*(~/|test_tcx\.py)")


def main(directory: Path, *pages: Path) -> None:
    """Write the files of PAGES into DIRECTORY, and print the commands, each on a line."""
    directory.mkdir(parents=True)
    for shown in map(read, pages):
        for name, text in shown.files.items():
            if name not in shown.fail:
                (directory / name).write_text(text)
        for command in shown.commands:
            if not _ELSEWHERE.match(command):
                sys.stdout.write(f"{command}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
