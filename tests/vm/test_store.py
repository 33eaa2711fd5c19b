"""Fetching kernels into the store, with a real apt and a small archive of our own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.vm import cache
from pytest_bpflink.vm.kernels import (
    KernelFetchError,
    KernelNotFound,
    KernelUnusable,
    Store,
    apt,
    debian,
    find,
    releases,
)
from tests.support.damage import DAMAGES, damaged
from tests.support.debian_archive import FETCH, contents, needs_apt
from tests.support.kernel_trees import write
from tests.support.nobody import NOBODY
from tests.support.processes import is_running

if TYPE_CHECKING:
    from pathlib import Path


@needs_apt
def test_newest_plain_kernel_of_a_series_is_fetched(store: Store) -> None:
    said: list[str] = []
    kernel = find("6.1", store=store, progress=said.append)
    arch = debian.architecture()
    assert kernel.version == "6.1.100"
    assert kernel.release == f"6.1.0-10-{arch}"
    assert (kernel.spec, kernel.id) == ("6.1", "6.1")
    assert kernel.image.read_text() == "kernel"
    assert kernel.modules
    assert (kernel.modules / "lib/modules" / kernel.release / "modules.dep").exists()
    assert contents(store) == [f"6.1.0-10-{arch}_6.1.100-1"]
    assert any("fetching Linux 6.1.100 (" in line for line in said)


@needs_apt
def test_exact_patch_release(store: Store) -> None:
    assert find("6.1.99", store=store).version == "6.1.99"


@needs_apt
@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("name", ["", "boot/vmlinuz-{}", "lib/modules/{}/modules.dep"])
def test_kernel_that_another_user_may_have_written_is_fetched_again(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_refused", {})
    kernel = find("6.1", store=store)
    assert kernel.modules
    planted = kernel.modules / name.format(kernel.release)
    if planted.is_file():
        planted.write_text("planted")
    os.chown(planted, NOBODY, -1)

    again = find("6.1", store=Store(store.root))

    assert again.image.read_text() == "kernel"
    assert planted.stat().st_uid == 0
    assert contents(store) == [f"{kernel.release}_6.1.100-1"]
    (refusal,) = cache.refusals()
    assert f"not used, since {planted} belongs to nobody" in refusal


@needs_apt
@pytest.mark.parametrize("damage", ["binary", "cut"])
def test_kernel_with_a_damaged_configuration_is_fetched_again(store: Store, damage: str) -> None:
    kernel = find("6.1", store=store)
    config = kernel.image.with_name(f"config-{kernel.release}")
    right = config.read_bytes()
    config.write_bytes(bytes(range(256)) if damage == "binary" else right[: len(right) // 2])

    again = find("6.1", store=Store(store.root))

    assert again.config == kernel.config
    assert config.read_bytes() == right
    assert contents(store) == [f"{kernel.release}_6.1.100-1"]


@needs_apt
@pytest.mark.parametrize("damage", ["cut", *DAMAGES])
def test_damaged_list_of_packages_is_made_anew(store: Store, damage: str) -> None:
    find("6.1", store=store)
    file = store.root.parent / "apt/packages.json"
    right = file.read_bytes()
    file.write_bytes(damaged(file)[damage])
    assert find("6.12", store=store).version == "6.12.5"
    assert file.read_bytes() == right


@needs_apt
@pytest.mark.parametrize("field", ["name", "version", "download_size", "locked"])
def test_list_of_packages_with_a_value_of_another_type_is_made_anew(
    store: Store, field: str
) -> None:
    find("6.1", store=store)
    file = store.root.parent / "apt/packages.json"
    right = file.read_bytes()
    known = json.loads(right)
    known["packages"][0][field] = {"a": 1}
    file.write_text(json.dumps(known))
    assert find("6.12", store=store).version == "6.12.5"
    assert file.read_bytes() == right


@needs_apt
@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
@pytest.mark.parametrize("name", ["apt.conf", "sources.list", "packages.json"])
def test_settings_of_apt_that_another_user_may_have_written_are_written_anew(
    store: Store, name: str
) -> None:
    find("6.1", store=store)
    planted = store.root.parent / "apt" / name
    right = planted.read_text()
    planted.write_text("planted")
    os.chown(planted, NOBODY, -1)

    assert find("6.12", store=store).version == "6.12.5"

    assert planted.stat().st_uid == 0
    if name != "packages.json":  # which has the time of the update
        assert planted.read_text() == right


@needs_apt
def test_release_with_suffix(store: Store) -> None:
    assert find("6.12.5+deb13", store=store).version == "6.12.5"


@needs_apt
def test_split_packages_are_put_together(store: Store) -> None:
    kernel = find("7.2", store=store)
    assert kernel.image.name == "vmlinuz"
    assert kernel.config["CONFIG_9P_FS"] == "m"
    assert kernel.modules
    assert (kernel.modules / "lib/modules" / kernel.release / "modules.dep").exists()


@needs_apt
def test_candidate_serves_while_there_is_no_release(store: Store) -> None:
    assert find("7.3", store=store).version == "7.3~rc7"


@needs_apt
def test_unknown_release_lists_the_releases(store: Store) -> None:
    with pytest.raises(KernelNotFound) as caught:
        find("6.2", store=store)
    assert str(caught.value).splitlines() == [
        "there is no kernel 6.2; there are:",
        "  6.1   6.1.100     1 older; longterm",
        "  6.8   6.8.1",
        "  6.12  6.12.5      longterm",
        "  6.16  6.16.3",
        "  7.2   7.2.9",
        "  7.3   7.3~rc7",
    ]


@needs_apt
def test_unknown_patch_release_lists_its_series(store: Store) -> None:
    with pytest.raises(KernelNotFound, match=r"6\.1\.7; of 6\.1 there are: 6\.1\.99, 6\.1\.100$"):
        find("6.1.7", store=store)


@needs_apt
def test_kernel_that_cannot_serve_is_not_kept(store: Store) -> None:
    with pytest.raises(KernelUnusable, match="CONFIG_OVERLAY_FS"):
        find("6.8", store=store)
    assert contents(store) == []


@needs_apt
def test_stored_kernel_needs_neither_apt_nor_network(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = find("6.1.99", store=store)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find("6.1", store=store).image == fetched.image


@needs_apt
def test_not_enough_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=5 << 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(
        KernelFetchError, match=r"not enough room for Linux 6\.1\.100: .*BPFLINK_CACHE"
    ):
        find("6.1", store=store)
    assert contents(store) == []


@needs_apt
def test_damaged_package_is_refused(store: Store, archive: Path) -> None:
    package = archive / f"pool/linux-image-6.1.0-10-{debian.architecture()}_6.1.100-1.deb"
    good = package.read_bytes()
    package.write_bytes(good[:-1] + b"X")
    try:
        with pytest.raises(KernelFetchError, match="Hash Sum mismatch"):
            find("6.1", store=store)
    finally:
        package.write_bytes(good)
    assert contents(store) == []


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(KernelFetchError, match=r"no apt on this host .* give the path of a kernel"):
        find("6.1", store=Store(tmp_path / "kernels"))


@needs_apt
def test_no_debian_mirror(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "host_sources", list)
    unread = "this host's apt has read no lists of packages yet (apt-get update), and knows no"
    with pytest.raises(KernelFetchError, match=f": {re.escape(unread)} Debian mirror to fetch"):
        find("6.1", store=store)


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path / "file")
    with pytest.raises(KernelFetchError, match=r"\(Not a directory\); BPFLINK_CACHE names another"):
        find("6.1", store=Store(tmp_path / "file" / "kernels"))


@needs_apt
def test_two_runs_fetch_once(store: Store) -> None:
    said: list[str] = []
    runs = [
        threading.Thread(
            target=find, args=("7.2",), kwargs={"store": store, "progress": said.append}
        )
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sum("fetching Linux" in line for line in said) == 1
    assert len(contents(store)) == 1


@needs_apt
def test_store_survives_sigkill_while_unpacking(
    store: Store, archive: Path, tmp_path: Path
) -> None:
    # A dpkg-deb that waits for a program that it started, as the real one waits for tar.
    script = (
        f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/pid\nwait\n"
    )
    slow = write(tmp_path / "bin/dpkg-deb", script)
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"
    command = [sys.executable, "-c", FETCH, f"file:{archive}", str(store.root), "6.1"]
    with subprocess.Popen(command, env=os.environ | {"PATH": path}) as run:
        eventually((tmp_path / "pid").exists, within=30)
        run.send_signal(signal.SIGKILL)
    assert contents(store)[0].startswith(".unfinished-")
    # The program that it started ends with it.
    unpacking = int((tmp_path / "pid").read_text())
    eventually(lambda: not is_running(unpacking), within=30)
    assert find("6.1", store=store).version == "6.1.100"
    assert contents(store) == [f"6.1.0-10-{debian.architecture()}_6.1.100-1"]


def test_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path))
    assert Store().root == tmp_path / "kernels"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("linux-image-6.1.0-50-amd64", True),
        ("linux-image-6.1.0-0.deb11.52-amd64", True),
        ("linux-image-6.12.107+deb13-amd64", True),
        ("linux-image-7.3-amd64", True),
        ("linux-image-6.1.0-50-amd64-unsigned", False),
        ("linux-image-6.1.0-50-amd64-dbg", False),
        ("linux-image-6.1.0-50-cloud-amd64", False),
        ("linux-image-6.12.107+deb13-rt-amd64", False),
        ("linux-image-6.1.0-50-arm64", False),
        ("linux-image-amd64", False),
    ],
)
def test_flavours(name: str, plain: bool) -> None:  # noqa: FBT001 (a column of the table)
    assert debian.is_plain(name, "amd64") is plain


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is the reference, and is not here")
def test_versions_sort_as_dpkg_sorts_them() -> None:
    ascending = [
        "5.10.262-1",
        "6.1.9-1",
        "6.1.90-1",
        "6.1.176-1~deb11u1",
        "6.1.176-1",
        "6.1.176-1+b1",
        "6.12.95-1~bpo12+1",
        "6.12.95-1",
        "6.12.107-1",
        "7.3~rc7-1~exp1",
        "7.3-1",
        "7.3.1-1",
    ]
    assert sorted(sorted(ascending), key=releases.version_key) == ascending
    for lower, higher in combinations(ascending, 2):
        subprocess.run(["dpkg", "--compare-versions", lower, "lt", higher], check=True)


def test_security_suites_come_from_the_security_mirror() -> None:
    host = [
        {"Component": "main", "Release": "bookworm", "Repo-URI": "http://a/debian/"},
        {"Component": "main", "Release": "bookworm-security", "Repo-URI": "http://a/security/"},
    ]
    lines = apt.sources(host, ("sid", "trixie-security"), kind="deb").splitlines()
    assert any(line.endswith("http://a/debian/ sid main") for line in lines)
    assert any(line.endswith("http://a/security/ trixie-security main") for line in lines)
    assert not any("http://a/debian/ trixie-security" in line for line in lines)
