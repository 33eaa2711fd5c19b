"""What a host answers a guest that asks it to compile.

The host composes the command itself. Files that are another in the guest than here, or that only
the guest has, are compiled from a copy.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.building import asking
from pytest_bpflink.building.host import Answer
from pytest_bpflink.building.object_cache import digest
from pytest_bpflink.building.recipe import Recipe
from pytest_bpflink.building.unused import note_use
from pytest_bpflink.vm.cache import cache_part, usable, writable
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.building.asking import Request
    from pytest_bpflink.building.recipe import Made

# Guests ask side by side, often for the same.
_answering = threading.Lock()


def answer(request: Request, make: Callable[[Recipe], Made | None]) -> Answer | None:
    """Return the answer to a request; MAKE compiles. None if this host compiles in another way."""
    if request.surroundings != asking.surroundings():
        return None
    # As for want of space or of memory, and for text that no program takes as an argument.
    with _answering, contextlib.suppress(OSError, ValueError):
        recipe = request.recipe
        if not all(_is_same(Path(name), content) for name, content in request.files.items()):
            recipe = _copied(request)
        made = make(recipe)
        if made is None:
            return None
        if made.object:
            return Answer(made.object.read_bytes())
        copies = str(recipe.copied_to)
        log, doing = (text.replace(copies, "") for text in (made.log, made.doing))
        return Answer(None, log, made.hint, doing, made.errno)
    return None


def _is_same(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False


def _copied(request: Request) -> Recipe:
    """Write the files of a request into the cache; return the recipe for the copies.

    They are found before any other, since these are all files that the guest's user wrote. The same
    files have the same place, so that they are compiled once.
    """
    parts = (part for file in request.files.items() for part in file)
    kept = usable(cache_part("sent") / digest(*parts))
    root = writable(kept, unless=lambda _: False)
    for name, content in request.files.items():
        if not _is_same(copy := _below(root, Path(name)), content):
            write_whole(copy, content)
    note_use(root)
    recipe = request.recipe
    beside = [source.parent for source in recipe.sources]
    copied = [_below(root, each) for each in (*recipe.directories, *beside)]
    return Recipe(
        tuple(_below(root, source) for source in recipe.sources),
        recipe.defines,
        (*(each for each in dict.fromkeys(copied) if each.is_dir()), *recipe.include),
        root,
    )


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
