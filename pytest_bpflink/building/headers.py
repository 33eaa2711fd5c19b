"""The places where clang looks for the headers of a source, whether a header is there or not.

A header that is created in a place where clang found none shadows the header of a later place, so
an object depends on these places as it depends on the files that it was made of. Knows nothing of
the rest of the project, since the build of the wheel imports it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SEARCH_STARTS = '#include "..." search starts here:'
_SEARCH_ENDS = "End of search list.\n"
_SEARCHED = re.compile(r"^ (.+)$", re.MULTILINE)
_MISSING = re.compile(r'^ignoring nonexistent directory "(.+)"$', re.MULTILINE)

# A macro may name a header for a later `#include`. Conditions are not evaluated: a place too many
# only has a source compiled again.
_INCLUDE = re.compile(
    rb"(?:#[ \t]*(include_next|(?:include|import|define[ \t]+\w+))|__has_include(?:_next)?[ \t]*\()"
    rb'[ \t]*(["<])([^">\n]+)[">]'
)


def split_verbose(said: str) -> tuple[list[Path], str]:
    """Split what `clang -v` writes into the directories of the search, and clang's messages.

    Directories that do not exist are the first ones: clang does not say where in the order they
    are.
    """
    before, ended, messages = said.partition(_SEARCH_ENDS)
    if not ended:
        return [], said
    search = before[before.index(_SEARCH_STARTS) :]
    names = [*_MISSING.findall(before), *_SEARCHED.findall(search)]
    return [Path(name).absolute() for name in names], messages


def reachable(source: Path, directories: Sequence[Path]) -> list[Path]:
    """Return a source and the headers that it may include, directly or through others."""
    files = [source]
    seen = {source}
    for file in files:  # which grows
        for place in _places(file, directories):
            if place not in seen and place.is_file():
                seen.add(place)
                files.append(place)
    return files


def missing(name: str, source: Path, directories: Sequence[Path]) -> list[str]:
    """Return how a source and its headers include a header of this NAME that is not there.

    For example `x86/vmlinux.h`, for `vmlinux.h`.
    """
    found: dict[str, None] = {}
    for file in reachable(source, directories):
        for _, quote, text in _INCLUDE.findall(file.read_bytes()):
            included = text.decode(errors="surrogateescape")
            places = [file.parent] * (quote == b'"') + [*directories]
            if Path(included).name == name and not any((p / included).is_file() for p in places):
                found[included] = None
    return [*found]


def empty_places(files: Iterable[Path], directories: Sequence[Path]) -> list[Path]:
    """Return the places where clang looked for headers of these files and found none.

    A missing directory stands for all places in it.
    """
    places = dict.fromkeys(place for file in files for place in _places(file, directories))
    return list(dict.fromkeys(_highest_missing(each) for each in places if not each.is_file()))


def _places(file: Path, directories: Sequence[Path]) -> Iterator[Path]:
    """Yield the places where clang looks for each header of a file, up to the first that has it."""
    for directive, quote, name in _INCLUDE.findall(file.read_bytes()):
        for directory in [file.parent] * (quote == b'"') + [*directories]:
            place = directory / name.decode(errors="surrogateescape")
            yield place
            # `include_next` begins behind the directory of the including file.
            if directive != b"include_next" and place.is_file():
                break


def _highest_missing(place: Path) -> Path:
    while not place.parent.exists():
        place = place.parent
    return place
