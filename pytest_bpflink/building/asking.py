"""How a guest asks its host to compile: emulated, clang takes minutes, or there is no clang.

A request carries the content of the files that the guest's user wrote, so that the host compiles
what is in the guest. Knows nothing of compiling, nor of the connection.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple, Self

from pytest_bpflink.building import headers
from pytest_bpflink.building.clang import environment
from pytest_bpflink.building.recipe import Recipe, shared_flags


class Request(NamedTuple):
    """A recipe, the files that it names and that they include, and the surroundings of clang."""

    recipe: Recipe
    files: dict[str, bytes]
    surroundings: tuple[str, ...]

    @property
    def plain(self) -> tuple[Any, ...]:
        """The request as a connection can carry it."""
        recipe = self.recipe
        return (
            tuple(map(str, recipe.sources)),
            recipe.defines,
            tuple(map(str, recipe.include)),
            self.files,
            self.surroundings,
        )

    @classmethod
    def read(cls, plain: object) -> Self:
        """Return the request that a guest sent. Raises `ValueError` if it is none."""
        match plain:
            case (
                (str(), *_) as sources,
                tuple() as defines,
                tuple() as include,
                dict() as files,
                tuple() as surroundings,
            ):
                texts = [*sources, *include, *files, *surroundings]
                names, places = [*map(str, sources)], [*map(str, include)]
                if not all(isinstance(each, str) for each in texts):
                    raise ValueError("its names are no texts")
                if not all(isinstance(each, bytes) for each in files.values()):
                    raise ValueError("its files are no bytes")
                if not all(_is_absolute(each) for each in (*names, *places, *files)):
                    raise ValueError("its paths are relative")
                if not {*names} <= {*files} or not all(map(_is_source, names)):
                    raise ValueError("it has no sources")
                # In this order a macro's name is checked, and nothing else becomes a flag.
                recipe = Recipe.of(names, _pairs(defines), places)
                return cls(recipe, files, surroundings)
        raise ValueError("it is no request")


def request_for(recipe: Recipe) -> Request:
    """Return what a host is to be asked for a recipe."""
    files: dict[str, bytes] = {}
    for source in recipe.sources:
        directories = [*recipe.directories, source.parent]
        is_text = source.suffix == ".c"
        for file in headers.reachable(source, directories) if is_text else [source]:
            files[str(Path(os.path.normpath(file)))] = file.read_bytes()
    return Request(recipe, files, surroundings())


def surroundings() -> tuple[str, ...]:
    """Return what else decides how a recipe is compiled, the same in a guest and on its host."""
    return (*environment(), *shared_flags())


def _is_absolute(path: str) -> bool:
    return os.path.isabs(path) and os.path.normpath(path) == path and "\0" not in path


def _is_source(path: str) -> bool:
    return path.endswith((".c", ".o"))


def _pairs(defines: tuple[object, ...]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for each in defines:
        match each:
            case (str(name), str(value)) if "\0" not in value:
                pairs[name] = value
            case _:
                raise ValueError("it has no macros")
    return pairs
