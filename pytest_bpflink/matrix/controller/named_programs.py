"""The BPF programs that tests can name: a program's name stands in the text of a test.

The controller collects no tests, so it reads the text of their modules and of what these import. A
name is looked for without `.bpf.c`, which tests often append.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

ENDING = ".bpf.c"

_IMPORT = re.compile(r"^[ \t]*(?:import|from)[ \t].*(?:\([^)]*\))?", re.MULTILINE)
_WORD = re.compile(r"\w+")

# In f-strings, templates of str.format() and of %, and patterns of glob().
_COMPOSED = re.compile(r"((?:[\w*%.-]|\{[^{}]*\})+)\.bpf\.c")
_VARIES = re.compile(r"\{[^{}]*\}|%[sd]|\*")


def texts_of(modules: Sequence[Path], files: Iterable[Path]) -> str:
    """Return the text of MODULES, and of the modules among FILES that they import."""
    by_name: dict[str, list[Path]] = {}
    for file in files:
        if file.suffix == ".py":
            name = file.parent.name if file.stem == "__init__" else file.stem
            by_name.setdefault(name, []).append(file)
    texts = dict.fromkeys(modules, "")
    queue = [*modules]
    for module in queue:  # which grows
        texts[module] = module.read_text(errors="replace")
        imports = " ".join(_IMPORT.findall(texts[module]))
        for word in set(_WORD.findall(imports)):
            for file in by_name.get(word, ()):
                if file not in texts:
                    texts[file] = ""
                    queue.append(file)
    return "\n".join(texts.values())


def among(files: Iterable[Path], text: str) -> list[Path]:
    """Return the sources of BPF programs among FILES whose names stand in TEXT, in order."""
    patterns = _patterns_in(text)
    found = set()
    for file in files:
        if file.name.endswith(ENDING):
            name = file.name.removesuffix(ENDING)
            if _stands_in(name, text) or any(fnmatch(name, each) for each in patterns):
                found.add(file)
    return sorted(found)


def _stands_in(name: str, text: str) -> bool:
    return bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text))


def _patterns_in(text: str) -> set[str]:
    """Return names that tests compose, such as `f"egress_{kind}.bpf.c"`, with * for what varies.

    A name that varies as a whole says nothing.
    """
    found = {_VARIES.sub("*", name) for name in _COMPOSED.findall(text)}
    return {each for each in found if each.strip("*")}
