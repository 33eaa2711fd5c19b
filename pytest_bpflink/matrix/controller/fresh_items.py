"""Items that run on a kernel of their own: which there are, and which of them wait for a guest.

Knows node ids, kernels' ids and groups. `fresh_guests` boots a guest for an item, `scheduling`
gives the item to the guest's worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_bpflink.matrix.messages import FreshItem


class FreshItems:
    """The items of a run that get guests of their own, from their collection to their end."""

    def __init__(self, groups: Mapping[str, str]) -> None:
        self._groups = groups
        self._found: dict[str, FreshItem] = {}
        self._kernels: dict[str, str] = {}
        self._waiting: dict[str, list[str]] = {}
        self._out: set[str] = set()

    def add(self, item: FreshItem) -> None:
        """Note that an item runs on a kernel of its own; before `take_out` for its kernel."""
        self._found[item.nodeid] = item

    def __contains__(self, nodeid: str) -> bool:
        return nodeid in self._found

    @property
    def pending(self) -> bool:
        """Whether an item waits for a guest, or has one and is not finished."""
        return bool(self._out) or self.waiting

    @property
    def waiting(self) -> bool:
        """Whether an item has no guest yet."""
        return any(self._waiting.values())

    def take_out(self, kernel: str, nodeids: Sequence[str]) -> list[str]:
        """Let the items among a kernel's that need guests of their own wait; return the others."""
        self._waiting[kernel] = [nodeid for nodeid in nodeids if nodeid in self]
        self._kernels |= dict.fromkeys(self._waiting[kernel], kernel)
        return [nodeid for nodeid in nodeids if nodeid not in self]

    def take(
        self, others: Callable[[str], Iterable[str]], working: Mapping[str, int]
    ) -> tuple[str, FreshItem] | None:
        """Return a kernel and its item that gets the next guest; None if no item can get one.

        WORKING has the number of a kernel's guests at work: the kernel with fewest comes first.
        Items of one `xdist_group` never run at the same time on a kernel: OTHERS(kernel) returns
        the unfinished items of the kernel's other workers.
        """
        for kernel in sorted(self._waiting, key=lambda kernel: working.get(kernel, 0)):
            out = [nodeid for nodeid in self._out if self._kernels[nodeid] == kernel]
            busy = {self._groups.get(nodeid) for nodeid in [*out, *others(kernel)]} - {None}
            for position, nodeid in enumerate(self._waiting[kernel]):
                if self._groups.get(nodeid) not in busy:
                    del self._waiting[kernel][position]
                    self._out.add(nodeid)
                    return kernel, self._found[nodeid]
        return None

    def through(self, nodeid: str) -> None:
        """Note that an item needs no guest any more."""
        self._out.discard(nodeid)

    def again(self, nodeid: str) -> None:
        """Let an item wait for a guest again."""
        self._out.discard(nodeid)
        self._waiting[self._kernels[nodeid]].insert(0, nodeid)
