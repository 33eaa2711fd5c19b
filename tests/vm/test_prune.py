"""What is in the store, how it is got rid of, and that what is in use stays."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import KernelError, KernelFetchError, Store, find
from tests.vm.test_specs import CONFIG, write
from tests.vm.test_store import wait_until

if TYPE_CHECKING:
    from pathlib import Path

DAY = 24 * 3600


@pytest.fixture
def pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Make a store with kernels that were used 0, 10, 20... days ago, on a host without apt."""
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path))
    store = Store()
    for number, version in enumerate(("6.1.99", "6.1.100", "6.12.5", "7.2.9")):
        tree = store.root / f"{version}-amd64_{version}-1"
        write(tree / f"boot/vmlinuz-{version}-amd64", "kernel" * 100_000)
        write(tree / f"boot/config-{version}-amd64", CONFIG)
        (tree / f"lib/modules/{version}-amd64").mkdir(parents=True)
        used = time.time() - number * 10 * DAY
        os.utime(tree, (used, used))
    return store


def versions(store: Store) -> list[str]:
    return [kernel.upstream for kernel in store.kernels()]


def test_kernels_are_listed_with_their_size_and_age(pruned: Store) -> None:
    assert versions(pruned) == ["6.1.99", "6.1.100", "6.12.5", "7.2.9"]
    newest = pruned.kernels()[-1]
    assert newest.release == "7.2.9-amd64"
    assert 600_000 < newest.size < 700_000
    assert newest.used == pytest.approx(time.time() - 30 * DAY, abs=100)


def test_what_was_not_used_for_long_is_removed(pruned: Store) -> None:
    assert [kernel.upstream for kernel in pruned.prune(unused_days=15)] == ["6.12.5", "7.2.9"]
    assert versions(pruned) == ["6.1.99", "6.1.100"]
    assert sorted(path.name for path in pruned.root.iterdir()) == [
        ".lock",
        "6.1.100-amd64_6.1.100-1",
        "6.1.99-amd64_6.1.99-1",
    ]


def test_finding_a_kernel_is_using_it(pruned: Store) -> None:
    find("7.2")
    assert [kernel.upstream for kernel in pruned.prune(unused_days=15)] == ["6.12.5"]


def test_what_shall_be_kept_is(pruned: Store) -> None:
    pruned.prune(unused_days=0, keep=["6.1", "7.2.9"])
    assert versions(pruned) == ["6.1.99", "6.1.100", "7.2.9"]


def test_downloads_that_were_cut_off_are_removed(pruned: Store) -> None:
    part = write(pruned.root.parent / "apt/cache/archives/linux-image-6.1.0-9-amd64_6.1.99-1.deb")
    pruned.prune()
    assert not part.exists()


def test_remains_of_a_run_that_was_killed_are_removed(pruned: Store) -> None:
    write(pruned.root / ".unfinished-x/tree/boot/vmlinuz-6.1.0")
    pruned.prune()
    assert not (pruned.root / ".unfinished-x").exists()


def test_kernel_in_use_stays_until_nobody_has_it(pruned: Store) -> None:
    kernel = find("6.1.99")
    (stored, *_) = pruned.kernels()
    assert not pruned.remove(stored)
    assert [removed.upstream for removed in pruned.prune(unused_days=-1)] == [
        "6.1.100",
        "6.12.5",
        "7.2.9",
    ]
    assert kernel.image.exists()
    del kernel
    assert pruned.remove(stored)
    assert versions(pruned) == []


def test_kernel_that_another_process_uses_stays(pruned: Store) -> None:
    program = (
        "import sys\n"
        "from pytest_bpflink.vm.kernels import find\n"
        "kernel = find('6.1.99')\n"
        "print('found', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program]
    (stored, *_) = pruned.kernels()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"found\n"
        assert not pruned.remove(stored)
        other.kill()
    wait_until(lambda: pruned.remove(stored))


def test_kernel_that_is_removed_in_between_is_looked_for_again(
    pruned: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    *left, gone = pruned.kernels()
    pruned.remove(gone)
    listings = iter([[*left, gone]])
    monkeypatch.setattr(Store, "kernels", lambda _store: next(listings, left))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(KernelFetchError, match=r"no kernel 7\.2 in the store, .* there is no apt"):
        find("7.2")


def test_kernel_that_is_removed_while_its_lock_is_awaited_is_not_there(
    pruned: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kernel, *_) = pruned.kernels()
    elsewhere = pruned.root / ".unfinished-x"

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
