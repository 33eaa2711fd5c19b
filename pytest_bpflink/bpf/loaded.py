"""The BPF objects that this process has loaded, and who is told of each."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink.bpf.handles import ObjectHandle

_loaded: WeakSet[ObjectHandle] = WeakSet()

listeners: list[Callable[[ObjectHandle], None]] = []
"""Functions that are called with each object when it is loaded."""


def note_loaded(loaded: ObjectHandle) -> None:
    """Note an object that was just loaded."""
    _loaded.add(loaded)
    for listener in listeners:
        listener(loaded)


def note_closed(loaded: ObjectHandle) -> None:
    """Note that an object is closed."""
    _loaded.discard(loaded)


def loaded_objects() -> list[ObjectHandle]:
    """Return the objects that are loaded and not closed."""
    return list(_loaded)
