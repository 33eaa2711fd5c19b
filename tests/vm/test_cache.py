"""The cache: its path, how its files are written, and that one run at a time writes."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.cache import cache_root, held, locked
from pytest_bpflink.vm.whole_file import replacing, write_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_cache_stays_the_same_in_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BPFLINK_CACHE", "cache")

    assert cache_root() == tmp_path / "cache"


def test_relative_cache_stays_the_same_after_a_test_has_changed_directory(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", "cache")
    pytester.makepyfile(
        """
        from pytest_bpflink.vm.cache import cache_root

        def test_x(tmp_path, monkeypatch, request):
            monkeypatch.chdir(tmp_path)
            assert cache_root() == request.config.rootpath / "cache"
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_file_that_is_written_replaces_the_old_one(tmp_path: Path) -> None:
    for content in (b"old", b"new"):
        write_whole(tmp_path / "directory/file", content)

    assert (tmp_path / "directory/file").read_bytes() == b"new"
    assert len([*(tmp_path / "directory").iterdir()]) == 1


def test_file_stays_whole_while_another_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, b"old")

    def write() -> None:
        with replacing(file) as new:
            new.write_bytes(b"ne")
            assert file.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_run_waits_for_another_that_writes_and_says_so(tmp_path: Path) -> None:
    holds, shall_end = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path, unfinished=".new-", waits=pytest.fail):
            holds.set()
            shall_end.wait()

    another = threading.Thread(target=hold)
    another.start()
    holds.wait()
    with locked(tmp_path, unfinished=".new-", waits=shall_end.set):
        assert shall_end.is_set()
    another.join()


def test_lock_that_is_never_released_is_an_error_in_the_end(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        held(lock),
        pytest.raises(TimeoutError) as raised,
        held(lock, seconds=0.1),
    ):
        pass
    assert raised.value.errno == errno.ETIMEDOUT
    assert raised.value.strerror == "another run has held this lock for 0 s; end that run"
    assert raised.value.filename == str(lock)


def test_run_that_writes_sweeps_what_interrupted_ones_left(tmp_path: Path) -> None:
    (tmp_path / ".new-6.1/boot").mkdir(parents=True)
    (tmp_path / "6.1").mkdir()

    with locked(tmp_path, unfinished=".new-", waits=pytest.fail):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", "6.1"}
