"""A worker that ends after a test that left its kernel or its process changed.

Knows how a worker ends before its items have run. `taint` and `session.process_watch` see the
changes, and the controller boots the guest for the other items. Runs in workers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import messages
from pytest_bpflink.session import xdist_worker

if TYPE_CHECKING:
    from collections.abc import Callable

_REASON = "the kernel is tainted"


class EarlyEnd:
    """Ends a worker after an item; its other items go to the next worker."""

    def __init__(self, config: pytest.Config, flush: Callable[[], None]) -> None:
        """FLUSH sends the events that are held back."""
        self._config = config
        self._flush = flush
        self._ended: tuple[pytest.Item, str] | None = None
        self._at_once = False

    def after(self, item: pytest.Item, what: str) -> None:
        """Have pytest end after the current item; WHAT that item has done, for the terminal."""
        self._ended = self._ended or (item, what)

    def at_once_after(self, item: pytest.Item, what: str) -> None:
        """End the process after the current item: pytest may be unable to end in it."""
        self._ended, self._at_once = (item, what), True

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        """Begin no other item."""
        if not self._ended:
            return
        session = self._ended[0].session
        if self._at_once:
            self._output.update(exitstatus=0, shouldfail=False, shouldstop=session.shouldstop)
            self._name_test()
            xdist_worker.finish(self._config)
            self._flush()
            os._exit(0)
        session.shouldstop = session.shouldstop or _REASON

    # xdist's pytest_sessionfinish is a wrapper: it has stored `shouldstop` in workeroutput already
    # and sends it after this hook.
    def pytest_sessionfinish(self) -> None:
        """Tell the controller which test it was, and let other workers go on."""
        if self._ended and self._output["shouldstop"] == _REASON:
            self._output["shouldstop"] = False
            self._name_test()

    def _name_test(self) -> None:
        assert self._ended
        item, what = self._ended
        self._output[messages.ENDED_AFTER] = item.nodeid, what

    @property
    def _output(self) -> dict[str, object]:
        return self._config.workeroutput  # type: ignore[attr-defined,no-any-return]
