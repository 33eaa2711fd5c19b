"""Which items want a kernel of their own, and the worker that collects one such item only.

Knows marks, and how pytest is told to collect one item. Runs in workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix.messages import FreshItem

if TYPE_CHECKING:
    from collections.abc import Generator


def fresh_item(item: pytest.Item) -> FreshItem | None:
    """Return how an item is collected alone, if it is to run on a kernel of its own."""
    marked = any(item.get_closest_marker(name) for name in ("fresh_kernel", "kernel_bug"))
    if not marked and not item.config.option.kernel_fresh:
        return None
    inside = item.nodeid.partition("::")[2]
    # Not the node id: that begins at the root directory, an argument where pytest was called.
    return FreshItem(item.nodeid, f"{item.path}::{inside}" if inside else None, item.location)


def known_bug(item: pytest.Item) -> str | None:
    """Return the source that the mark of an item names, which is to crash some kernels."""
    mark = item.get_closest_marker("kernel_bug")
    if mark is None:
        return None
    return str(mark.args[0] if mark.args else mark.kwargs.get("source", "no source is named"))


class OnlyItem:
    """Has a worker collect one item. What it can't find it leaves out: the controller sees that."""

    def __init__(self, config: pytest.Config, item: FreshItem) -> None:
        self._item = item
        if item.argument is not None:
            config.args[:] = [item.argument]
            config.option.pyargs = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Keep it alone, after every other plugin had its say."""
        yield
        items[:] = [item for item in items if item.nodeid == self._item.nodeid][:1]
