"""Listing the kernels in the store, and removing them unless they are in use."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.vm.kernels import KernelError, KernelFetchError, Store, find
from tests.support.kernel_trees import DAY, versions, write

if TYPE_CHECKING:
    from pathlib import Path


def test_kernels_are_listed_with_their_size_and_age(aged_store: Store) -> None:
    assert versions(aged_store) == ["6.1.99", "6.1.100", "6.12.5", "7.2.9"]
    newest = aged_store.kernels()[-1]
    assert newest.release == "7.2.9-amd64"
    assert 600_000 < newest.size < 700_000
    assert newest.used == pytest.approx(time.time() - 30 * DAY, abs=100)


def test_kernels_that_were_not_used_for_long_are_removed(aged_store: Store) -> None:
    assert [kernel.upstream for kernel in aged_store.prune(unused_days=15)] == ["6.12.5", "7.2.9"]
    assert versions(aged_store) == ["6.1.99", "6.1.100"]
    assert sorted(path.name for path in aged_store.root.iterdir()) == [
        ".lock",
        "6.1.100-amd64_6.1.100-1",
        "6.1.99-amd64_6.1.99-1",
    ]


def test_finding_a_kernel_is_using_it(aged_store: Store) -> None:
    find("7.2")
    assert [kernel.upstream for kernel in aged_store.prune(unused_days=15)] == ["6.12.5"]


def test_kernels_that_keep_names_stay(aged_store: Store) -> None:
    aged_store.prune(unused_days=0, keep=["6.1", "7.2.9"])
    assert versions(aged_store) == ["6.1.99", "6.1.100", "7.2.9"]


def test_downloads_that_were_cut_off_are_removed(aged_store: Store) -> None:
    part = write(
        aged_store.root.parent / "apt/cache/archives/linux-image-6.1.0-9-amd64_6.1.99-1.deb"
    )
    aged_store.prune()
    assert not part.exists()


def test_remains_of_a_run_that_was_killed_are_removed(aged_store: Store) -> None:
    write(aged_store.root / ".unfinished-x/tree/boot/vmlinuz-6.1.0")
    aged_store.prune()
    assert not (aged_store.root / ".unfinished-x").exists()


def test_kernel_in_use_stays_until_nobody_has_it(aged_store: Store) -> None:
    kernel = find("6.1.99")
    (stored, *_) = aged_store.kernels()
    assert not aged_store.remove(stored)
    assert [removed.upstream for removed in aged_store.prune(unused_days=-1)] == [
        "6.1.100",
        "6.12.5",
        "7.2.9",
    ]
    assert kernel.image.exists()
    del kernel
    assert aged_store.remove(stored)
    assert versions(aged_store) == []


def test_kernel_that_another_process_uses_stays(aged_store: Store) -> None:
    program = (
        "import sys\n"
        "from pytest_bpflink.vm.kernels import find\n"
        "kernel = find('6.1.99')\n"
        "print('found', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    (stored, *_) = aged_store.kernels()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"found\n"
        assert not aged_store.remove(stored)
        other.kill()
    eventually(lambda: aged_store.remove(stored), within=30)


def test_kernel_that_is_removed_in_between_is_looked_for_again(
    aged_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    *left, gone = aged_store.kernels()
    aged_store.remove(gone)
    listings = iter([[*left, gone]])
    monkeypatch.setattr(Store, "kernels", lambda _store: next(listings, left))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(KernelFetchError, match=r"no kernel 7\.2 in the store, .* there is no apt"):
        find("7.2")


def test_kernel_that_is_removed_while_its_lock_is_awaited_is_not_there(
    aged_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kernel, *_) = aged_store.kernels()
    elsewhere = aged_store.root / ".unfinished-x"

    def replace(*_: object) -> None:
        kernel.path.rename(elsewhere)
        kernel.path.mkdir()

    monkeypatch.setattr(fcntl, "flock", replace)
    assert kernel.lease() is None


def test_store_that_is_not_there_has_nothing_to_prune(tmp_path: Path) -> None:
    assert Store(tmp_path / "kernels").prune() == []


def test_store_that_cannot_be_changed(tmp_path: Path) -> None:
    store = Store(write(tmp_path / "file") / "kernels")
    with pytest.raises(KernelError, match=r"file/kernels can't be pruned: Not a directory"):
        store.prune()
