"""The entry points of the distributions that are installed for a Python, as text.

Knows their files in site-packages. The letter holds them, for pytest reads all of them twice, and
over 9p a guest would take a millisecond for each.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_FILE = "entry_points.txt"


def read(directories: Iterable[str]) -> dict[str, str | None]:
    """Return the entry points of each distribution in DIRECTORIES by its path, None for none."""
    found = {}
    for directory in directories:
        with suppress(OSError):  # a zip file, or not there
            for name in os.listdir(directory):
                if name.endswith((".dist-info", ".egg-info")):
                    path = os.path.join(directory, name)
                    found[path] = _text_of(path)
    return found


def _text_of(distribution: str) -> str | None:
    try:
        with open(os.path.join(distribution, _FILE), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None
