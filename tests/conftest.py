"""Fixtures that several test files share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import cache
from tests.support import ROOT
from tests.support.debian_archive import archive, store  # noqa: F401 (fixtures)
from tests.support.installed import fresh_python, sdist, wheel  # noqa: F401 (fixtures)
from tests.support.kernel_trees import aged_store  # noqa: F401 (a fixture)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    RunWithFakes = Callable[..., pytest.RunResult]


# If one of these is set, pytest does not shorten its summary. Without them, the sessions that tests
# run look the same everywhere.
for _variable in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_variable, None)


@pytest.fixture(autouse=True)
def _own_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a test has the cache refuse out of the summary of this session."""
    monkeypatch.setattr(cache, "_refused", cache._refused.copy())


@pytest.fixture
def with_fakes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunWithFakes:
    """Return a function that runs pytest where guests are processes of this machine."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/support"), prepend=os.pathsep)
    temporary = pytester.mkdir("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))

    def run(*arguments: str | Path) -> pytest.RunResult:
        result = pytester.runpytest_subprocess(
            "-p", "fake_guests", "-W", "error", *arguments, timeout=60
        )
        assert not list(temporary.glob("bpflink-*")), "guests left directories behind"
        return result

    return run
