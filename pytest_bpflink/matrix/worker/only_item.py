"""Which items need a kernel of their own, and the worker that collects one such item only.

Knows the marks, and the argument that makes pytest collect one item. Runs in workers.
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
    # Not the node id: it is relative to rootdir, an argument to the current directory.
    return FreshItem(item.nodeid, f"{item.path}::{inside}" if inside else None, item.location)


def known_bug(item: pytest.Item) -> str | None:
    """Return the source of the bug that an item's mark kernel_bug names; None without the mark."""
    mark = item.get_closest_marker("kernel_bug")
    if mark is None:
        return None
    return str(mark.args[0] if mark.args else mark.kwargs.get("source", "no source is named"))


class OnlyItem:
    """Has a worker collect one item, or none if pytest can't find it: the controller sees that."""

    def __init__(self, config: pytest.Config, item: FreshItem) -> None:
        self._item = item
        if item.argument is not None:
            config.args[:] = [item.argument]
            config.option.pyargs = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Keep this item only, after every other plugin has seen all items."""
        yield
        items[:] = [item for item in items if item.nodeid == self._item.nodeid][:1]
