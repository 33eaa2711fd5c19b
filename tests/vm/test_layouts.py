"""Real guests of kernels given by path, in all layouts, with modules plain, .xz and .zst."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import Kernel, find
from tests.support.command import bpflink
from tests.support.kernel_trees import copy_modules
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path


def stored(spec: str) -> Kernel:
    return find(spec, progress=print)


def installed_tree(kernel: Kernel, root: Path) -> Path:
    """Make an unpacked kernel with modules as .zst, and without their index."""
    assert kernel.modules
    source = kernel.modules / "lib/modules" / kernel.release
    directory = root / "usr/lib/modules" / kernel.release
    modules = copy_modules(source / "kernel", directory / "kernel")
    subprocess.run(["zstd", "--quiet", "--rm", *modules], check=True)
    for index in ("modules.builtin", "modules.order"):
        shutil.copy(source / index, directory)
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


def everything(*trees: Path) -> dict[Path, int]:
    """Return all paths in some trees, with their times."""
    return {path: path.stat().st_mtime_ns for tree in trees for path in (tree, *tree.rglob("*"))}


def test_image_alone_says_that_its_modules_are_missing(tmp_path: Path) -> None:
    """Without a configuration beside the image, only the guest shows that it needs modules."""
    kernel = stored("5.10")
    image = shutil.copy(kernel.image, tmp_path)

    done = bpflink("vm", image, "--", "true")

    assert done.returncode == 125
    missing = (
        f"Linux {kernel.release} can't run as a guest: it has no CONFIG_VIRTIO_PCI,"
        " CONFIG_VIRTIO_CONSOLE, CONFIG_NET_9P_VIRTIO, CONFIG_9P_FS, CONFIG_OVERLAY_FS, built in or"
        " as a module; if it was built with modules, its modules are missing: there is no"
        f" lib/modules/{kernel.release} in any directory above {image}\n"
    )
    assert missing in done.stderr


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not on this host")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the build tree is made for x86")
def test_guests_boot_from_paths_load_modules_and_write_nothing_there(
    pytester: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    plain, compressed = stored("6.1"), stored("6.12")
    assert compressed.modules
    assert list(compressed.modules.glob("lib/modules/*/kernel/fs/9p/9p.ko.xz"))
    installed = installed_tree(plain, tmp_path / "installed, in c's")
    paths = [installed, build_tree(plain, tmp_path / "linux"), compressed.modules.parent]
    before = everything(*paths[:2])  # the store notes each use of a kernel
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
        *(word for path in (*paths, plain.image) for word in ("--kernel", path)),
        timeout=560,
    )

    result.assert_outcomes(passed=4)
    assert everything(*paths[:2]) == before
    result.stdout.fnmatch_lines(
        [
            f"kernel installed_in_c_s: Linux {plain.release}, *",
            f"kernel linux: Linux {plain.release}, *",
            f"kernel {compressed.release}*: Linux {compressed.release}, *",
            f"kernel {plain.release}: Linux {plain.release}, *",
        ]
    )
