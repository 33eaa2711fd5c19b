"""`bpflink kernels`: listing and removing; fetching from a mirror is tested with the store."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.commands.output import size
from pytest_bpflink.vm.kernels import Store, find
from tests.support.command import bpflink, table_of
from tests.support.kernel_trees import add_kernel, versions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("aged_store")

NO_APT = {"PATH": "/nonexistent"}


def test_without_an_action_it_lists() -> None:
    store = Store()
    day = time.strftime("%Y-%m-%d", time.localtime(store.kernels()[0].used))
    done = bpflink("kernels")
    assert (done.returncode, done.stderr) == (0, "")
    rows = table_of(done.stdout)
    taken = size(store.kernels()[0].size).split()
    assert rows[0] == ["6.1", "6.1.99", "6.1.99-amd64", *taken, day, "longterm"]
    assert done.stdout.splitlines()[-1].startswith(f"4 kernels, 2 MiB in {store.root}, ")
    *listed, _room = bpflink("kernels", "list").stdout.splitlines()
    assert listed == done.stdout.splitlines()[:-1]


def test_list_for_programs() -> None:
    store = Store()
    first, *_, last = json.loads(bpflink("kernels", "list", "--json").stdout)
    day = time.strftime("%Y-%m-%d", time.localtime(store.kernels()[-1].used))
    assert (first["spec"], first["version"], first["longterm"]) == ("6.1", "6.1.99", True)
    assert last == {
        "spec": "7.2",
        "version": "7.2.9",
        "release": "7.2.9-amd64",
        "stored": True,
        "longterm": False,
        "size": store.kernels()[-1].size,
        "used": day,
        "path": str(store.kernels()[-1].path),
    }


def test_list_of_a_store_that_is_not_there(tmp_path: Path) -> None:
    done = bpflink("kernels", BPFLINK_CACHE=str(tmp_path / "not/yet"))
    assert done.returncode == 0
    assert done.stdout.startswith("0 kernels, 0 B in ")
    assert "'bpflink kernels list --offered' shows the kernels that can be fetched" in done.stdout


def test_without_apt_the_stored_kernels_are_offered() -> None:
    done = bpflink("kernels", "list", "--offered", "--json", **NO_APT)
    assert [row["version"] for row in json.loads(done.stdout)] == [
        "6.1.99",
        "6.1.100",
        "6.12.5",
        "7.2.9",
    ]
    assert "there is no apt on this host" in done.stderr


def test_fetch_expands_patterns() -> None:
    done = bpflink("kernels", "fetch", "6*", **NO_APT)
    assert done.returncode == 0
    assert [line.split(" at ")[0] for line in done.stdout.splitlines()] == [
        "6.1: Linux 6.1.100 (6.1.100-amd64)",
        "6.12: Linux 6.12.5 (6.12.5-amd64)",
    ]
    assert done.stdout.startswith(f"6.1: Linux 6.1.100 (6.1.100-amd64) at {Store().root}/")
    assert "there is no apt on this host" in done.stderr


def test_fetch_of_what_is_no_kernel() -> None:
    done = bpflink("kernels", "fetch", "lates")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bpflink: 'lates' names no kernel: write a release (6.1, ")


def test_remove_takes_all_that_match() -> None:
    taken = [size(kernel.size) for kernel in Store().kernels()]
    done = bpflink("kernels", "remove", "6.1", "7*")
    assert done.returncode == 0
    assert versions(Store()) == ["6.12.5"]
    assert done.stdout.splitlines() == [
        f"removed Linux 6.1.99 (6.1.99-amd64), {taken[0]}",
        f"removed Linux 6.1.100 (6.1.100-amd64), {taken[1]}",
        f"removed Linux 7.2.9 (7.2.9-amd64), {taken[3]}",
        f"1 kernel, {taken[2]} left",
    ]


def test_remove_says_what_stays() -> None:
    kernel = find("6.12")
    done = bpflink("kernels", "remove", "6.12")
    assert (done.returncode, done.stderr) == (1, "bpflink: Linux 6.12.5 is in use, and stays\n")
    done = bpflink("kernels", "remove", "5.4")
    assert done.returncode == 1
    assert done.stderr == (
        f"bpflink: no kernel 5.4 is in {Store().root}: see 'bpflink kernels list'\n"
    )
    assert kernel.image.exists()


def test_kernels_of_another_architecture() -> None:
    other = Store(arch="s390x")
    for version in ("6.12.5", "6.18.1"):
        add_kernel(other, version)
    done = bpflink("kernels")
    specs = [row[0] for row in table_of(done.stdout)]
    assert [spec for spec in specs if ":" in spec] == ["s390x:6.12", "s390x:6.18"]
    assert f"in {other.root}\n" in done.stdout
    done = bpflink("kernels", "remove", "s390x:6.12")
    assert done.stdout.startswith("removed Linux 6.12.5 (6.12.5-amd64), ")
    assert [kernel.version for kernel in other.kernels()] == ["6.18.1-1"]
    bpflink("kernels", "prune", "--unused-days", "0", "--keep", "s390x:6.18", "--keep", "6.1")
    assert [kernel.version for kernel in other.kernels()] == ["6.18.1-1"]
    assert len(Store().kernels()) == 2


def test_prune() -> None:
    done = bpflink("kernels", "prune", "--unused-days", "5", "--keep", "lts", "--json")
    assert versions(Store()) == ["6.1.99", "6.12.5"]
    assert [row["version"] for row in json.loads(done.stdout)] == ["6.1.100", "7.2.9"]


def test_prune_refuses_to_keep_what_can_be_no_kernel() -> None:
    done = bpflink("kernels", "prune", "--unused-days", "5", "--keep", "tls")
    assert done.returncode == 2
    assert "--keep: 'tls' is no release (6.1), pattern (6.1*) or word (lts)" in done.stderr
    assert len(versions(Store())) == 4
