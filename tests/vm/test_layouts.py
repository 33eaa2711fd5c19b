"""Real guests of kernels given by path, in all layouts, with modules plain, .xz and .zst."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import Kernel, find
from tests.support.command import bpflink
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path

# The modules that a guest needs to reach the host's root; and dummy, which the test loads.
MODULES = {"9p", "9pnet", "9pnet_virtio", "fscache", "netfs", "overlay", "virtio", "virtio_console"}
MODULES |= {"dummy", "virtio_pci", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_ring"}


def stored(spec: str) -> Kernel:
    return find(spec, progress=print)


def copy_modules(source: Path, destination: Path) -> list[Path]:
    """Copy the modules that a guest needs, and return them."""
    copied = []
    for module in sorted(source.rglob("*.ko")):
        if module.stem.replace("-", "_") in MODULES:
            target = destination / module.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, target)
            copied.append(target)
    return copied


def installed_tree(kernel: Kernel, root: Path) -> Path:
    """Make an installed kernel with modules as .zst."""
    assert kernel.modules
    source = kernel.modules / "lib/modules" / kernel.release
    directory = root / "usr/lib/modules" / kernel.release
    modules = copy_modules(source / "kernel", directory / "kernel")
    subprocess.run(["zstd", "--quiet", "--rm", *modules], check=True)
    for index in ("modules.builtin", "modules.order"):
        shutil.copy(source / index, directory)
    subprocess.run(["depmod", "-b", root / "usr", kernel.release], check=True)
    (root / "boot").mkdir()
    shutil.copy(kernel.image, root / "boot")
    shutil.copy(kernel.image.with_name(f"config-{kernel.release}"), root / "boot")
    return root


def build_tree(kernel: Kernel, root: Path) -> Path:
    """Make the output directory of a kernel build, with the files that guests look at."""
    assert kernel.modules
    source = kernel.modules / "lib/modules" / kernel.release
    modules = copy_modules(source / "kernel", root)
    (root / "modules.order").write_text(
        "".join(f"{module.relative_to(root).with_suffix('.o')}\n" for module in modules)
    )
    shutil.copy(source / "modules.builtin", root)
    for name in ("modules.builtin.modinfo", "System.map"):
        (root / name).touch()
    (root / "include/config").mkdir(parents=True)
    (root / "include/config/kernel.release").write_text(f"{kernel.release}\n")
    (root / "arch/x86/boot").mkdir(parents=True)
    shutil.copy(kernel.image, root / "arch/x86/boot/bzImage")
    shutil.copy(kernel.image.with_name(f"config-{kernel.release}"), root / ".config")
    return root


def test_image_alone_says_that_its_modules_are_missing(tmp_path: Path) -> None:
    """Without a configuration beside the image, only the guest shows that it needs modules."""
    kernel = stored("5.10")
    image = shutil.copy(kernel.image, tmp_path)

    done = bpflink("vm", image, "--", "true")

    assert done.returncode == 125
    missing = (
        f"; if it was built with modules, its modules are missing: there is no lib/modules/"
        f"{kernel.release} in any directory above {image}\n"
    )
    assert missing in done.stderr


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not on this host")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the build tree is made for x86")
def test_guests_boot_from_paths_and_load_modules(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    plain, compressed = stored("6.1"), stored("6.12")
    assert compressed.modules
    assert list(compressed.modules.glob("lib/modules/*/kernel/fs/9p/9p.ko.xz"))
    installed = installed_tree(plain, tmp_path / "installed")
    paths = [installed, build_tree(plain, tmp_path / "linux"), compressed.modules.parent]
    pytester.makepyfile(
        """
        import subprocess
        from pathlib import Path

        def test_loads_a_module():
            assert not Path("/sys/module/dummy").exists()
            subprocess.run(["modprobe", "dummy"], check=True)
            assert Path("/sys/module/dummy").exists()
        """
    )

    result = pytester.runpytest_subprocess(
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--kernel-guest=cold",
        "--kernel",
        ",".join(map(str, paths)),
        "--kernel",
        plain.image,
        timeout=560,
    )

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(
        [
            f"kernel installed: Linux {plain.release}, *",
            f"kernel linux: Linux {plain.release}, *",
            f"kernel {compressed.release}*: Linux {compressed.release}, *",
            f"kernel {plain.release}: Linux {plain.release}, *",
        ]
    )
