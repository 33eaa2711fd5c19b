"""Kernels given by path, in all layouts, and the errors for paths that are no kernel."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from pytest_bpflink.vm.kernels import KernelNotFound, KernelUnusable, Store, find
from pytest_bpflink.vm.kernels.config import parse_config
from pytest_bpflink.vm.kernels.drivers import is_packed
from pytest_bpflink.vm.kernels.kernel import check_kernel
from tests.support.kernel_trees import CONFIG, KERNEL, MODULES, bz_image, write
from tests.support.nobody import run_as_nobody


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make an unpacked package with the layout up to Linux 6.11: boot/ and lib/modules."""
    write(tmp_path / "boot/vmlinuz-6.1.0-9-amd64")
    write(tmp_path / "boot/config-6.1.0-9-amd64", CONFIG)
    write(tmp_path / "boot/System.map-6.1.0-9-amd64")
    write(tmp_path / "lib/modules/6.1.0-9-amd64/modules.dep", MODULES)
    return tmp_path


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Make the output directory of a kernel build."""
    tree = tmp_path / "linux"
    write(tree / ".config", CONFIG.replace("=m", "=y"))
    write(tree / "include/config/kernel.release", "6.19.0-rc1+\n")
    write(tree / "arch/x86/boot/bzImage")
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
    write(modules / "modules.dep", MODULES)
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
    assert kernel.config["CONFIG_BPF_SYSCALL"] == "y"


def test_image_in_a_build_tree_is_that_tree(build: Path) -> None:
    kernel = find(str(build / "arch/x86/boot/bzImage"))
    assert kernel.release == "6.19.0-rc1+"
    assert kernel.image == build / "arch/x86/boot/bzImage"


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
    with pytest.raises(
        KernelNotFound, match="holds no kernel: expected vmlinuz or vmlinuz-RELEASE in it"
    ):
        find(str(tmp_path))


@pytest.mark.parametrize("text", ["Linux is nice", ""], ids=["text", "empty"])
def test_directory_whose_image_is_none(tmp_path: Path, text: str) -> None:
    image = write(tmp_path / "boot/vmlinuz", text)
    with pytest.raises(KernelNotFound, match=f"{image} is no kernel image: it carries no release"):
        find(str(tmp_path))


def test_directory_with_two_kernels_at_its_top(tmp_path: Path) -> None:
    images = [write(tmp_path / f"vmlinuz-6.{number}.0") for number in (1, 2)]
    with pytest.raises(KernelNotFound) as raised:
        find(str(tmp_path))
    names = ", ".join(map(str, reversed(images)))
    assert str(raised.value) == f"{tmp_path} holds 2 kernels, name one of them: {names}"


@pytest.mark.parametrize("place", ["boot/config-6.1.0-9-amd64", "lib/modules/6.1.0-9-amd64/config"])
def test_configuration_that_is_no_text(package: Path, place: str) -> None:
    (package / "boot/config-6.1.0-9-amd64").unlink()
    config = write(package / place)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(
        KernelUnusable, match=f"{config} is damaged: a kernel's configuration is te"
    ):
        find(str(package))


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


def test_kernel_that_lacks_a_driver_names_the_option(package: Path) -> None:
    lacking = CONFIG.replace("CONFIG_OVERLAY_FS=m\n", "").replace("CONFIG_VIRTIO_PCI=m\n", "")
    write(package / "boot/config-6.1.0-9-amd64", lacking)
    with pytest.raises(KernelUnusable, match="without CONFIG_VIRTIO_PCI, CONFIG_OVERLAY_FS"):
        find(str(package))


def test_kernel_built_without_9p_is_usable(package: Path) -> None:
    cloud = CONFIG.replace("CONFIG_9P_FS=m\n", "").replace("CONFIG_NET_9P_VIRTIO=m\n", "")
    write(package / "boot/config-6.1.0-9-amd64", cloud)
    write(package / "lib/modules/6.1.0-9-amd64/modules.dep", MODULES.replace("kernel/9p.ko:\n", ""))
    assert is_packed(find(str(package)))


def test_kernel_with_an_unknown_config_is_not_packed(package: Path) -> None:
    (package / "boot/config-6.1.0-9-amd64").unlink()
    assert not is_packed(find(str(package)))


def test_modular_kernel_without_its_modules(package: Path) -> None:
    shutil.rmtree(package / "lib")
    with pytest.raises(KernelUnusable, match=r"CONFIG_OVERLAY_FS as modules, ") as raised:
        find(str(package))
    assert str(raised.value).endswith(
        " as modules, and its modules are missing: there is no lib/modules/6.1.0-9-amd64 in any"
        f" directory above {package}/boot/vmlinuz-6.1.0-9-amd64"
    )


def test_kernel_without_btf_is_usable_and_says_so(package: Path) -> None:
    lean = CONFIG.replace("CONFIG_DEBUG_INFO_BTF=y\n", "")
    write(package / "boot/config-6.1.0-9-amd64", lean)
    assert check_kernel(find(str(package))) == ["CONFIG_DEBUG_INFO_BTF"]


RELEASE = "6.6.1-me"
BANNER = f"Linux version {RELEASE} (me@here) #1 SMP".encode()
IKCONFIG = b"IKCFG_ST" + gzip.compress(CONFIG.replace("=m", "=y").encode()) + b"IKCFG_ED"


@pytest.mark.parametrize("name", ["boot/vmlinuz", "boot/bzImage", "boot/vmlinux", "bzImage"])
def test_image_without_release_in_its_name(tmp_path: Path, name: str) -> None:
    """As in the images of cilium's ci-kernels."""
    image = write(tmp_path / name)
    image.write_bytes(b"\0MZ\0" + BANNER)
    write(tmp_path / f"lib/modules/{RELEASE}/modules.dep", MODULES)
    kernel = find(str(tmp_path))
    assert (kernel.release, kernel.image, kernel.modules) == (RELEASE, image, tmp_path)


def test_image_with_its_release_at_the_top_of_a_directory(tmp_path: Path) -> None:
    image = write(tmp_path / f"vmlinuz-{RELEASE}")
    write(tmp_path / f"config-{RELEASE}", CONFIG.replace("=m", "=y"))
    kernel = find(str(tmp_path))
    assert (kernel.release, kernel.image, kernel.modules) == (RELEASE, image, None)
    assert kernel.config["CONFIG_9P_FS"] == "y"


def test_image_is_a_link(tmp_path: Path) -> None:
    """As /vmlinuz of Debian, which leads to the image in /boot."""
    stored = find("6.1")
    (tmp_path / "vmlinuz").symlink_to(stored.image)
    write(tmp_path / "config", CONFIG.replace("=m", "=y"))
    assert find(str(tmp_path)).release == stored.release


def test_image_and_configuration_that_were_copied_from_a_build(tmp_path: Path) -> None:
    for name in ("bzImage", "vmlinux"):
        write(tmp_path / name).write_bytes(BANNER)
    write(tmp_path / ".config", CONFIG.replace("=m", "=y"))
    kernel = find(str(tmp_path))
    assert (kernel.release, kernel.image.name) == (RELEASE, "bzImage")
    assert kernel.config_file == tmp_path / ".config"


@pytest.mark.parametrize("boot", ["boot", "usr/boot"])
def test_configuration_with_the_modules(package: Path, boot: str) -> None:
    """As in RPMs, beside whose image in /boot there is none."""
    (package / "boot").rename(package / "copied")
    image = write(package / boot / "vmlinuz-6.1.0-9-amd64")
    kept = write(package / "lib/modules/6.1.0-9-amd64/config", CONFIG)
    kernel = find(str(image))
    assert (kernel.config_file, kernel.config["CONFIG_9P_FS"]) == (kept, "m")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(KERNEL + BANNER + IKCONFIG, id="vmlinux"),
        pytest.param(b"\0MZ\0" + BANNER + IKCONFIG, id="Image"),
        pytest.param(bz_image(lzma.compress(KERNEL + IKCONFIG)) + BANNER, id="bzImage"),
    ],
)
def test_configuration_inside_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "an image, with a comma"
    image.write_bytes(content)
    kernel = find(str(image))
    assert kernel.config["CONFIG_9P_FS"] == "y"
    assert kernel.config_file
    assert kernel.config_file.read_text() == CONFIG.replace("=m", "=y")
    assert kernel.config_file.is_relative_to(tmp_path / "cache")
    # The image is unpacked once.
    before = kernel.config_file.stat()
    again = find(str(image)).config_file
    assert again
    assert again.stat() == before


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(KERNEL + BANNER + IKCONFIG[:60], id="cut"),
        pytest.param(KERNEL + BANNER + b"IKCFG_ST\x1f\x8b\x08 and nothing", id="damaged"),
        pytest.param(bz_image(lzma.compress(KERNEL)[:-30]) + BANNER, id="damaged payload"),
        pytest.param(bz_image(b"an unknown format") + BANNER, id="unknown"),
        pytest.param(BANNER, id="none"),
    ],
)
def test_image_without_a_configuration_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    image = tmp_path / "image"
    image.write_bytes(content)
    kernel = find(str(image))
    assert (kernel.release, kernel.config, kernel.config_file) == (RELEASE, {}, None)


def test_configuration_inside_the_image_lacks_what_guests_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    lean = CONFIG.replace("=m", "=y").replace("CONFIG_OVERLAY_FS=y\n", "").encode()
    packed = b"IKCFG_ST" + gzip.compress(lean) + b"IKCFG_ED"
    (tmp_path / "image").write_bytes(KERNEL + BANNER + packed)
    with pytest.raises(KernelUnusable, match=f"kernel {RELEASE} .* built without CONFIG_OVERLAY_"):
        find(str(tmp_path / "image"))


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize("name", ["boot/vmlinuz-6.1.0-9-amd64", "boot/vmlinuz", "."])
def test_image_that_this_user_can_not_read(name: str) -> None:
    """As Ubuntu's in /boot; also a whole directory."""
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory)
        package.chmod(0o755)
        unreadable = package if name == "." else write(package / name)
        unreadable.chmod(0o600)
        command = f"from pytest_bpflink.vm.kernels import find; find({directory!r})"
        done = run_as_nobody([sys.executable, "-c", command], cwd="/")
    assert done.stdout.splitlines()[-1] == (
        "pytest_bpflink.vm.kernels.kernel.KernelUnusable:"
        f" {unreadable} can't be read: give this user the right to, or copy it"
    )


def test_config_keeps_strings_without_their_quotes() -> None:
    assert parse_config('CONFIG_A="x y"\n# CONFIG_B is not set\nCONFIG_C=0x10\n') == {
        "CONFIG_A": "x y",
        "CONFIG_C": "0x10",
    }
