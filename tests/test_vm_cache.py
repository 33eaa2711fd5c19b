"""What is kept between runs: where it is, how it is written, and who may write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_root

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_cache_stays_the_same_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPFLINK_CACHE", "cache")

    assert cache_root() == tmp_path / "cache"
