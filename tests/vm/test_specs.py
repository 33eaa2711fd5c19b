"""Kernels given by path, in all layouts, and the errors for paths that are no kernel."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import KernelNotFound, KernelUnusable, Store, find
from pytest_bpflink.vm.kernels.config import parse_config
from pytest_bpflink.vm.kernels.kernel import check_kernel
from tests.support.kernel_trees import CONFIG, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make an unpacked package with the layout up to Linux 6.11: boot/ and lib/modules."""
    write(tmp_path / "boot/vmlinuz-6.1.0-9-amd64")
    write(tmp_path / "boot/config-6.1.0-9-amd64", CONFIG)
    write(tmp_path / "boot/System.map-6.1.0-9-amd64")
    write(tmp_path / "lib/modules/6.1.0-9-amd64/modules.dep")
    return tmp_path


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Make the output directory of a kernel build."""
    tree = tmp_path / "linux"
    write(tree / ".config", CONFIG)
    write(tree / "include/config/kernel.release", "6.19.0-rc1+\n")
    write(tree / "arch/x86/boot/bzImage")
    write(tree / "modules.order")
    return tree


def test_package_tree(package: Path) -> None:
    kernel = find(str(package))
    assert kernel.release == "6.1.0-9-amd64"
    assert kernel.image == package / "boot/vmlinuz-6.1.0-9-amd64"
    assert kernel.modules == package
    assert kernel.config["CONFIG_LSM"] == "landlock,lockdown,yama"
    assert "CONFIG_KASAN" not in kernel.config


def test_image_in_a_package_finds_its_modules_and_config(package: Path) -> None:
    kernel = find(str(package / "boot/vmlinuz-6.1.0-9-amd64"))
    assert kernel.modules == package
    assert kernel.config["CONFIG_9P_FS"] == "m"


def test_package_tree_with_boot_and_usr(package: Path) -> None:
    (package / "usr").mkdir()
    (package / "lib").rename(package / "usr/lib")
    assert find(str(package)).modules == package / "usr"


def test_package_tree_all_under_usr(tmp_path: Path) -> None:
    modules = tmp_path / "usr/lib/modules/7.2.12+deb14-amd64"
    write(modules / "vmlinuz")
    write(modules / "config", CONFIG)
    kernel = find(str(tmp_path))
    assert kernel.release == "7.2.12+deb14-amd64"
    assert kernel.image == modules / "vmlinuz"
    assert kernel.modules == tmp_path / "usr"
    assert kernel.config["CONFIG_9P_FS"] == "m"


def test_system_that_has_each_image_twice(package: Path) -> None:
    write(package / "lib/modules/6.1.0-9-amd64/vmlinuz")
    assert find(str(package)).release == "6.1.0-9-amd64"


def test_build_tree(build: Path) -> None:
    kernel = find(str(build))
    assert kernel.release == "6.19.0-rc1+"
    assert kernel.image == build / "arch/x86/boot/bzImage"
    assert kernel.modules == build
    assert kernel.config["CONFIG_BPF_SYSCALL"] == "y"


def test_image_in_a_build_tree_is_that_tree(build: Path) -> None:
    kernel = find(str(build / "arch/x86/boot/bzImage"))
    assert kernel.release == "6.19.0-rc1+"
    assert kernel.modules == build


def test_image_alone_tells_its_release(tmp_path: Path) -> None:
    image = tmp_path / "Image"
    image.write_bytes(b"\0MZ\0Linux version 6.6.1-me (me@here) #1 SMP\0")
    kernel = find(str(image))
    assert kernel.release == "6.6.1-me"
    assert kernel.modules is None
    assert kernel.config == {}


def test_ids_of_paths_are_short_and_differ(build: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "linux"
    shutil.copytree(build, other)
    ids = [find(str(build)).id, find(str(other)).id]
    assert ids[0] != ids[1]
    assert ids[0] == find(f"{build}/").id
    for short in ids:
        assert short.startswith("linux-")
        assert len(short) == len("linux-") + 4


def test_spec_is_kept(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package.parent)
    spec = f"./{package.name}"
    assert find(spec).spec == spec


def test_host_kernel_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    uname = os.uname()
    running = os.uname_result((*uname[:2], "9.9.9-none", *uname[3:]))
    monkeypatch.setattr(os, "uname", lambda: running)
    with pytest.raises(KernelNotFound, match=r"running kernel 9\.9\.9-none is not on this machine"):
        find("host")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("lates", "'lates' names no kernel: write a release"),
        ("./nowhere", "nowhere does not exist"),
        ("~nobody-is-called-so/vmlinuz", "~nobody-is-called-so/vmlinuz does not exist"),
        pytest.param("a" * 5000, "names no kernel: write a release", id="too-long-name"),
        pytest.param("/" + "a" * 5000, "does not exist", id="too-long-path"),
    ],
)
def test_spec_that_is_nothing(spec: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound, match=sentence):
        find(spec, store=Store(tmp_path))


def test_directory_without_kernel(tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound, match="holds no kernel: expected boot/vmlinuz-RELEASE"):
        find(str(tmp_path))


def test_directory_with_two_kernels(package: Path) -> None:
    write(package / "boot/vmlinuz-6.1.0-10-amd64")
    with pytest.raises(KernelNotFound, match=r"holds 2 kernels.*-10-amd64"):
        find(str(package))


def test_file_that_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(KernelNotFound, match=r"is no kernel image: .*ASCII text"):
        find(str(write(tmp_path / "readme", "Linux is nice\n")))


def test_source_tree_that_was_not_built(tmp_path: Path) -> None:
    write(tmp_path / ".config", CONFIG)
    with pytest.raises(KernelNotFound, match="not built: run make there"):
        find(str(tmp_path))


def test_build_tree_without_image(build: Path) -> None:
    (build / "arch/x86/boot/bzImage").unlink()
    with pytest.raises(KernelNotFound, match="no kernel image under arch"):
        find(str(build))


def test_kernel_without_9p_names_the_option(package: Path) -> None:
    cloud = CONFIG.replace("CONFIG_9P_FS=m\n", "").replace("CONFIG_NET_9P_VIRTIO=m\n", "")
    write(package / "boot/config-6.1.0-9-amd64", cloud)
    with pytest.raises(KernelUnusable, match="without CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS"):
        find(str(package))


def test_modular_kernel_without_its_modules(package: Path) -> None:
    shutil.rmtree(package / "lib")
    with pytest.raises(KernelUnusable, match=r"CONFIG_9P_FS.* as modules, ") as raised:
        find(str(package))
    assert str(raised.value).endswith(
        " as modules, and its modules are missing: there is no lib/modules/6.1.0-9-amd64 in any"
        f" directory above {package}/boot/vmlinuz-6.1.0-9-amd64"
    )


def test_kernel_without_btf_is_usable_and_says_so(package: Path) -> None:
    lean = CONFIG.replace("CONFIG_DEBUG_INFO_BTF=y\n", "")
    write(package / "boot/config-6.1.0-9-amd64", lean)
    assert check_kernel(find(str(package))) == ["CONFIG_DEBUG_INFO_BTF"]


def test_config_keeps_strings_without_their_quotes() -> None:
    assert parse_config('CONFIG_A="x y"\n# CONFIG_B is not set\nCONFIG_C=0x10\n') == {
        "CONFIG_A": "x y",
        "CONFIG_C": "0x10",
    }
