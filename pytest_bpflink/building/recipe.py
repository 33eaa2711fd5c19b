"""What a BPF object is made of: its sources, and how they are compiled; and what becomes of it.

Knows no compiler. The flags that all sources of a project share are in the environment, where the
workers and the subprocesses of a session find them.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    _Paths = str | os.PathLike[str]

#: The variable with the flags that all sources are compiled with, quoted as for a shell.
CFLAGS: Final = "BPFLINK_CFLAGS"

_MACRO = re.compile(r"[A-Za-z_]\w*")

# The options of clang by which it searches a directory. The directory is their next argument, or
# the rest of the same one.
_SEARCHING = ("-I", "-iquote", "-isystem", "-idirafter")
_NAMING = (*_SEARCHING, "-include", "-imacros")

# Directories in which clang looks for headers, too.
_VARIABLES = ("CPATH", "C_INCLUDE_PATH")


@dataclass(frozen=True)
class Recipe:
    """The sources of an object, with the macros and the directories of headers they alone have.

    Several sources are compiled one by one and linked. The first one gives the object its name.
    """

    sources: tuple[Path, ...]
    defines: tuple[tuple[str, str], ...] = ()
    include: tuple[Path, ...] = ()
    copied_to: Path | None = None
    """The directory below which copies of the files are, which the object is not to name."""

    @classmethod
    def of(
        cls,
        sources: _Paths | Iterable[_Paths],
        defines: Mapping[str, object] | None = None,
        include: Iterable[_Paths] = (),
    ) -> Self:
        """Return the recipe for one source, or for several, with macros by name.

        True as the value of a macro defines it as a flag does, by 1; with False or None it is not
        defined. Raises `ValueError` for a name that is no identifier, and without any source.
        """
        paths = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        if not paths:
            raise ValueError("an object is made of one source at least")
        return cls(
            tuple(map(Path, paths)),
            tuple(_macros(defines or {})),
            tuple(Path(os.path.abspath(each)) for each in include),
        )

    @property
    def is_plain(self) -> bool:
        """Whether this is one source, compiled in no special way."""
        return len(self.sources) == 1 and not self.defines and not self.include

    @property
    def flags(self) -> list[str]:
        """The user's arguments for clang: those of this object decide."""
        map_to = [f"-ffile-prefix-map={self.copied_to}="] if self.copied_to else []
        macros = [f"-D{name}={value}" for name, value in self.defines]
        directories = [f"-I{directory}" for directory in self.include]
        return [*directories, *shared_flags(), *macros, *map_to]

    @property
    def directories(self) -> list[Path]:
        """The directories in which the user has clang look for headers, but for the sources'."""
        named = [Path(each) for each in _searched(self.flags)]
        for variable in _VARIABLES:
            named += map(Path, filter(None, os.environ.get(variable, "").split(":")))
        return [Path(os.path.abspath(each)) for each in named]


class Made(NamedTuple):
    """The object that was made of a recipe; if there is none, the parts of the error."""

    object: Path | None
    log: str = ""
    hint: str = "clang says:"
    doing: str = ""
    errno: int = EINVAL


def shared_flags() -> list[str]:
    """Return the flags that all sources are compiled with."""
    return shlex.split(os.environ.get(CFLAGS, ""))


def absolute(flags: Iterable[str], start: Path) -> list[str]:
    """Return flags for clang in which directories and headers are named from anywhere."""
    named, after = [], ""
    for flag in flags:
        option = next((each for each in _NAMING if flag.startswith(each) and flag != each), "")
        if after:
            named.append(str(start / flag))
        elif option:
            named.append(option + str(start / flag.removeprefix(option)))
        else:
            named.append(flag)
        after = "" if after or flag not in _NAMING else flag
    return named


def _macros(defines: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for name, value in defines.items():
        if not _MACRO.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a macro")
        if value is not None and value is not False:
            yield name, "1" if value is True else str(value)


def _searched(flags: Iterable[str]) -> Iterator[str]:
    following = False
    for flag in flags:
        if following:
            yield flag
        following = not following and flag in _SEARCHING
        for option in _SEARCHING:
            if flag.startswith(option) and flag != option:
                yield flag.removeprefix(option)
