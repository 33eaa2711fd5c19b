"""Tests that close or replace the descriptors of their worker's connection to the controller.

Such a worker could report nothing, and would run its other items for nobody. Runs in workers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix import messages
from pytest_bpflink.session import xdist_worker

if TYPE_CHECKING:
    from collections.abc import Generator


class ConnectionWatch:
    """Ends a worker, with a status of its own, as soon as a phase of a test has closed it."""

    def __init__(self, config: pytest.Config) -> None:
        self._files = {each: _file(each) for each in xdist_worker.connection(config)}

    # Before other plugins, which may use descriptors that are closed, too.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Exit if the controller would not hear of this phase."""
        if any(_file(each) != file for each, file in self._files.items()):
            os._exit(messages.UNHEARD)
        return (yield)


def _file(descriptor: int) -> tuple[int, int] | None:
    """Return the identity of an open file; None if the descriptor is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
