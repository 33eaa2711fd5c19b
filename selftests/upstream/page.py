"""Makes docs/selftests.md: which of the kernel's selftests on links are here, and which are not.

    python -m pytest_bpflink.selftests.upstream.page > docs/selftests.md
    python -m pytest_bpflink.selftests.upstream.page ../linux-7.3  # files that the page lacks

The rows are the docstrings of the test files, whose form `upstream/__init__.py` gives, and the
table `not_here`. It knows no kernel and runs no test.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.selftests.upstream.not_here import NOT_HERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_SELFTESTS = Path(__file__).resolve().parents[1]
_DIRECTORY = "tools/testing/selftests/bpf/prog_tests"
_NAMED = re.compile(rf"{_DIRECTORY}/(\w+|{{[\w,\s]+}})\.c\s+\(Linux\s([^)]+)\)")
# What a file does that does more with a link than to make and to destroy it.
_LINKS = re.compile(
    r"bpf_link_(create|update|detach|get_info|get_fd|get_next)"
    r"|bpf_link__(pin|unpin|update|detach|open|disconnect)"
)

_INTRODUCTION = """\
# Selftests

The kernel's own selftests on links are in `{directory}/` of its sources. This page says which of
them are here, written anew in Python, and which are not. Don't edit it: `make selftests-page` makes
it from the docstrings of `selftests/` and from `selftests/upstream/not_here.py`.

Beside these tests the [conformance suite](link-types.md) asks links of *every* type the same
questions, most of which upstream asks of one or two types.

"Since" is the release that brought upstream's file, or the part of it that is about links. On a
kernel without the feature a test is skipped, and the reason names the release or the option.
"""


@dataclass(frozen=True)
class Port:
    """A test file, and what its docstring says of upstream's."""

    file: str
    upstream: tuple[str, ...]
    since: str
    tests: tuple[str, ...]
    beyond: str
    elsewhere: str
    left_out: str


def ports() -> list[Port]:
    """Return the test files that name a file of upstream's, in the order of upstream's names.

    Raises ValueError if a file of `upstream/` names none.
    """
    found = []
    for file in sorted(_SELFTESTS.rglob("test_*.py")):
        name = str(file.relative_to(_SELFTESTS))
        port = read(name, file.read_text())
        if port:
            found.append(port)
        elif name.startswith("upstream/"):
            raise ValueError(f"{name} does not say from which file it is ported")
    return sorted(found, key=lambda port: port.upstream)


def read(name: str, source: str) -> Port | None:
    """Read the docstring of a test file; None if it names no file of upstream's."""
    tree = ast.parse(source)
    text = ast.get_docstring(tree) or ""
    named = _NAMED.search(text)
    if not named:
        return None
    tests = (node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    return Port(
        file=name,
        upstream=tuple(re.findall(r"\w+", named[1])),
        since=" ".join(named[2].split()),
        tests=tuple(one.removeprefix("test_") for one in tests if one.startswith("test_")),
        beyond=_part(text, "Beyond upstream, "),
        elsewhere=_part(text, "Elsewhere: "),
        left_out=_part(text, "Left out: "),
    )


def _part(text: str, beginning: str) -> str:
    """Return a part of a docstring, from its first words to the end of the paragraph."""
    found = re.search(rf"(?:^|\.\s){beginning}(.+?)(\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def text() -> str:
    """Return the page's text."""
    here = [
        (
            ", ".join(f"`{one}`" for one in port.upstream),
            port.since,
            f"`{port.file}`: {', '.join(port.tests)}",
            port.beyond,
            port.elsewhere,
            port.left_out,
        )
        for port in ports()
    ]
    columns = ("upstream", "since", "tests", "beyond upstream", "elsewhere", "left out")
    lines = [
        _INTRODUCTION.format(directory=_DIRECTORY),
        "\n## Here\n\n",
        *_table(columns, here),
        "\n## Not here\n\n",
        *_table(("upstream", "why"), ((f"`{one}`", why) for one, why in sorted(NOT_HERE.items()))),
    ]
    return "".join(lines)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (columns, ("---",) * len(columns), *rows):
        yield f"| {' | '.join(cells)} |\n"


def unlisted(tree: Path) -> list[str]:
    """Return the files on links in a kernel's sources that the page does not name."""
    named = {*NOT_HERE, *(one for port in ports() for one in port.upstream)}
    files = sorted((tree / _DIRECTORY).glob("*.c"))
    return [
        file.stem for file in files if _LINKS.search(file.read_text()) if file.stem not in named
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit("\n".join(unlisted(Path(sys.argv[1]))) or 0)
    sys.stdout.write(text())
