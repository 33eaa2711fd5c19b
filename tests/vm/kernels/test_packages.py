"""Kernels in .deb files that are on the disk: one file, or the files of one kernel."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import KernelNotFound, KernelUnusable, find
from pytest_bpflink.vm.kernels.unpacked import Unpacked
from tests.support.debian_archive import Deb, kernel_deb, split_debs, ubuntu_debs
from tests.support.kernel_trees import CONFIG, write

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not on this host")

UBUNTU = "5.15.0-91-generic"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty cache, whose path has a space and a comma."""
    directory = tmp_path / "cache, mine"
    monkeypatch.setenv("BPFLINK_CACHE", str(directory))
    return directory


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Make a directory for packages, whose path has a space and a comma."""
    directory = tmp_path / "down, loads"
    directory.mkdir()
    return directory


def build(directory: Path, *debs: Deb) -> list[Path]:
    """Build packages into DIRECTORY, and nothing else."""
    built = []
    for deb in debs:
        deb.build(directory / "built")
        (made,) = (directory / "built").glob("*.deb")
        built.append(made.rename(directory / made.name))
        shutil.rmtree(directory / "built")
    return built


def test_one_package(downloads: Path, cache: Path) -> None:
    (deb,) = build(downloads, kernel_deb("linux-image-6.6.9-me", "6.6.9-1"))
    said: list[str] = []

    kernel = find(str(deb), progress=said.append)

    assert (kernel.spec, kernel.release) == (str(deb), "6.6.9-me")
    assert kernel.id.startswith("linux-image-6.6.9-me_6.6.9-1-")
    assert kernel.modules
    assert kernel.modules.is_relative_to(cache)
    assert (kernel.modules / "lib/modules/6.6.9-me/modules.dep").exists()
    assert said == [f"{deb}: unpacking"]
    # By its content, whatever its name is.
    said.clear()
    moved = deb.rename(downloads / "x.deb")
    assert find(str(moved), progress=said.append).image == kernel.image
    assert said == []
    assert [kept.release for kept in Unpacked().kernels()] == ["6.6.9-me"]


def test_directory_with_the_packages_of_a_build(downloads: Path) -> None:
    """`make bindeb-pkg` also builds headers, a C library's headers, and debugging symbols."""
    build(
        downloads,
        kernel_deb("linux-image-6.6.9-me", "6.6.9-1"),
        Deb("linux-image-6.6.9-me-dbg", "6.6.9-1", {"boot/vmlinuz-9.9.9": "debugging"}),
        Deb("linux-headers-6.6.9-me", "6.6.9-1", {"boot/vmlinuz-9.9.8": "headers"}),
        Deb("linux-libc-dev", "6.6.9-1", {"boot/vmlinuz-9.9.7": "headers"}),
    )
    write(downloads / "notes.deb", "no package, and no kernel's")
    assert find(str(downloads)).release == "6.6.9-me"


def test_directory_with_packages_of_ubuntu(downloads: Path) -> None:
    build(downloads, *ubuntu_debs(UBUNTU, "5.15.0-91.101"))
    kernel = find(str(downloads))
    assert kernel.release == UBUNTU
    assert kernel.modules
    assert (kernel.modules / "lib/modules" / UBUNTU / "kernel/README").exists()


def test_directory_with_packages_of_debian(downloads: Path) -> None:
    build(downloads, *split_debs("7.2.9+deb14-amd64", "7.2.9-1"))
    assert find(str(downloads)).release == "7.2.9+deb14-amd64"


def test_package_is_not_run(downloads: Path, tmp_path: Path) -> None:
    deb = kernel_deb("linux-image-6.6.9-me", "6.6.9-1")
    script = f"#!/bin/sh\ntouch {tmp_path}/run\n"
    root = downloads / "built" / f"{deb.name}_{deb.version}"
    for name in ("preinst", "postinst", "config"):
        write(root / f"DEBIAN/{name}", script).chmod(0o755)
    (built,) = build(downloads, deb)
    find(str(built))
    assert not (tmp_path / "run").exists()


# What is wrong with packages


def test_modules_that_are_in_another_package(downloads: Path) -> None:
    image, *_ = build(downloads, *ubuntu_debs(UBUNTU, "5.15.0-91.101"))
    with pytest.raises(KernelUnusable) as caught:
        find(str(image))
    assert str(caught.value) == (
        f"{image} has Linux {UBUNTU}, but its modules are missing: put all packages of this kernel"
        " (image, modules, modules-extra) into one directory, and give its path"
    )
    assert Unpacked().kernels() == []


def test_kernel_without_modules_needs_none(downloads: Path) -> None:
    files = {"boot/vmlinuz-6.6.9": "kernel", "boot/config-6.6.9": CONFIG.replace("=m", "=y")}
    (deb,) = build(downloads, Deb("linux-image-6.6.9", "6.6.9-1", files))
    assert find(str(deb)).modules is None


def test_packages_of_two_kernels(downloads: Path) -> None:
    for version in ("6.6.9", "6.1.1"):
        build(downloads, kernel_deb(f"linux-image-{version}", f"{version}-1"))
    with pytest.raises(KernelNotFound) as caught:
        find(str(downloads))
    assert str(caught.value) == (
        f"{downloads} holds the packages of 2 kernels, 6.1.1, 6.6.9: give each a directory of its"
        " own"
    )


def test_package_without_a_kernel(downloads: Path) -> None:
    (deb,) = build(downloads, Deb("hello", "1", {"usr/bin/hello": "hello"}))
    with pytest.raises(KernelNotFound) as caught:
        find(str(deb))
    assert str(caught.value) == (
        f"{deb} holds no kernel: expected boot/vmlinuz-RELEASE or"
        " usr/lib/modules/RELEASE/vmlinuz in the packages"
    )
    with pytest.raises(KernelNotFound, match="down, loads holds no kernel: expected vmlinuz"):
        find(str(downloads))


@pytest.mark.parametrize("directory", [False, True])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "text"])
def test_damaged_package(
    downloads: Path,
    damage: str,
    directory: bool,  # noqa: FBT001 (a parameter of pytest's)
) -> None:
    (deb,) = build(downloads, kernel_deb("linux-image-6.6.9-me", "6.6.9-1"))
    right = deb.read_bytes()
    middle = len(right) * 3 // 4
    changed = {
        "cut": right[:-200],
        "changed": right[:middle] + b"XXXX" + right[middle + 4 :],
        "empty": b"",
        "text": b"no package",
    }
    deb.write_bytes(changed[damage])
    with pytest.raises(KernelUnusable) as caught:
        find(str(downloads if directory else deb))
    assert str(caught.value).startswith(f"{deb} is damaged, or no package: ")
    assert Unpacked().kernels() == []
    deb.write_bytes(right)
    assert find(str(deb)).release == "6.6.9-me"


def test_package_that_can_not_serve_is_not_kept(downloads: Path) -> None:
    config = CONFIG.replace("CONFIG_OVERLAY_FS=m\n", "")
    (deb,) = build(downloads, kernel_deb("linux-image-6.6.9-me", "6.6.9-1", config=config))
    with pytest.raises(KernelUnusable, match="CONFIG_OVERLAY_FS"):
        find(str(deb))
    assert Unpacked().kernels() == []


def test_package_without_a_module_that_guests_need(downloads: Path) -> None:
    """The configuration has the driver as a module, and no package holds it."""
    image = kernel_deb("linux-image-6.6.9-me", "6.6.9-1")
    del image.files["lib/modules/6.6.9-me/kernel/virtio_pci.ko"]
    (deb,) = build(downloads, image)
    with pytest.raises(KernelUnusable, match=r"it has no virtio_pci \(CONFIG_VIRTIO_PCI\), "):
        find(str(deb))


def test_package_that_is_not_there(downloads: Path) -> None:
    with pytest.raises(KernelNotFound, match=r"none\.deb does not exist"):
        find(str(downloads / "none.deb"))


def test_disk_without_room(downloads: Path, cache: Path) -> None:
    (deb,) = build(downloads, kernel_deb("linux-image-6.6.9-me", "6.6.9-1"))
    write(cache / "unpacked")
    with pytest.raises(Exception, match=r"can't be unpacked to .* \(.*\); BPFLINK_CACHE names"):
        find(str(deb))


def test_directory_that_is_read_only(downloads: Path) -> None:
    build(downloads, *ubuntu_debs(UBUNTU, "5.15.0-91.101"))
    before = {path.name: path.stat().st_mtime_ns for path in (downloads, *downloads.iterdir())}
    find(str(downloads))
    assert {
        path.name: path.stat().st_mtime_ns for path in (downloads, *downloads.iterdir())
    } == before
    assert os.listdir(downloads)
