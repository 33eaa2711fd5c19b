"""The index of modules that an unpacked package or a build tree lacks; no guest runs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.image import guest_image
from pytest_bpflink.vm.kernels import KernelFetchError, KernelUnusable, find
from pytest_bpflink.vm.kernels.drivers import has_9p
from pytest_bpflink.vm.kernels.kernel import read_kernel
from tests.support.kernel_trees import CONFIG, copy_modules, write
from tests.support.nobody import NOBODY, run_as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = 86400


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tree with a few modules of 6.1, as an unpacked package has them."""
    kernel = find("6.1")
    source = kernel.module_directory
    assert source
    root = tmp_path_factory.mktemp("a, tree of 6.1")
    copy_modules(source, root / "lib/modules" / kernel.release)
    for name in ("modules.builtin", "modules.order"):
        shutil.copy(source / name, root / "lib/modules" / kernel.release)
    for file in (kernel.image, kernel.config_file):
        assert file
        (root / "boot").mkdir(exist_ok=True)
        shutil.copy(file, root / "boot")
    return root


@pytest.fixture
def tree(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy that tree, and begin an empty cache."""
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(unpacked, tmp_path / "c's, tree")


def depends(root: Path, release: str, module: str) -> list[Path]:
    """Return the files that modprobe loads for a module."""
    command = [
        "modprobe",
        "-d",
        str(root),
        "-S",
        release,
        "-C",
        "/dev/null",
        "--show-depends",
        module,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Path(line.removeprefix("insmod ").strip()) for line in done.stdout.splitlines()]


def everything(tree: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tree.rglob("*")}


def test_tree_without_an_index_gets_one_elsewhere(tree: Path) -> None:
    before, said = everything(tree), list[str]()

    kernel = find(str(tree), progress=said.append)

    assert everything(tree) == before
    assert said == [f"{tree}: indexing its modules"]
    assert kernel.modules
    assert not kernel.modules.is_relative_to(tree)
    files = depends(kernel.modules, kernel.release, "9pnet_virtio")
    assert {"9pnet.ko", "9pnet_virtio.ko"} <= {file.name for file in files}
    assert all(file.resolve().is_relative_to(tree) for file in files)
    assert kernel.module_directory
    needed = guest_image.needed_modules(kernel.module_directory)
    assert {"9p.ko", "overlay.ko", "virtio_pci.ko"} <= {module.name for module in needed}


def test_index_is_made_once(tree: Path) -> None:
    said = list[str]()
    kernels = [find(str(tree), progress=said.append) for _ in range(2)]
    assert len(said) == 1
    assert kernels[0].modules == kernels[1].modules


def test_tree_with_an_index_keeps_it(tree: Path) -> None:
    release = find(str(tree)).release
    subprocess.run(["depmod", "-b", tree, release], check=True)
    assert find(str(tree)).modules == tree


def test_index_is_made_anew_when_a_module_changes(tree: Path) -> None:
    before = find(str(tree))
    (module,) = tree.rglob("dummy.ko")
    module.unlink()
    after = find(str(tree))
    assert before.modules
    assert after.modules
    assert depends(before.modules, before.release, "dummy")
    with pytest.raises(subprocess.CalledProcessError):
        depends(after.modules, after.release, "dummy")


def test_two_trees_of_one_release_have_an_index_each(tree: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tree, tmp_path / "other")
    kernels = [find(str(each)) for each in (tree, other)]
    for kernel, root in zip(kernels, (tree, other), strict=True):
        assert kernel.modules
        (dummy,) = depends(kernel.modules, kernel.release, "dummy")
        assert dummy.resolve().is_relative_to(root)


def test_tree_that_was_moved_is_found_at_its_new_place(tree: Path, tmp_path: Path) -> None:
    find(str(tree))
    kernel = find(str(tree.rename(tmp_path / "moved")))
    assert kernel.modules
    (dummy,) = depends(kernel.modules, kernel.release, "dummy")
    assert dummy.resolve().is_relative_to(tmp_path / "moved")


def test_build_tree_stays_as_it_is(tree: Path) -> None:
    """virtme-ng makes a directory .virtme_mods in it."""
    release = find(str(tree)).release
    build = tree / "linux"
    shutil.copytree(tree / "lib/modules" / release / "kernel", build)
    modules = [path.relative_to(build) for path in build.rglob("*.ko")]
    # Up to Linux 6.1 kernel/fs/9p/9p.ko, then fs/9p/9p.o; a list may be older than its modules.
    lines = [
        f"kernel/{path}" if path.name == "9pnet.ko" else str(path)[:-2] + "o" for path in modules
    ]
    write(build / "modules.order", "\n".join([*lines, "fs/gone/gone.o"]))
    write(build / "modules.builtin", "kernel/fs/ext4/ext4.ko\n")
    write(build / "include/config/kernel.release", f"{release}\n")
    write(build / "arch/x86/boot/bzImage")
    write(build / ".config", CONFIG)
    before = everything(build)

    kernel = find(str(build))

    assert everything(build) == before
    assert kernel.modules
    files = depends(kernel.modules, release, "9pnet_virtio")
    assert {"9pnet.ko", "9pnet_virtio.ko"} <= {file.name for file in files}
    assert all(file.resolve().is_relative_to(build) for file in files)
    assert depends(kernel.modules, release, "ext4") == [Path("builtin ext4")]
    assert kernel.module_directory
    assert (kernel.module_directory / "build").resolve() == build


@pytest.fixture
def read_only(unpacked: Path) -> Iterator[Path]:
    """Mount that tree where nobody can write to it, and every user can read it."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        unpacked.chmod(0o755)
        subprocess.run(["mount", "--bind", unpacked, place], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
            yield place
        finally:
            subprocess.run(["umount", place], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize("cache", ["own", "read-only"])
def test_tree_and_user_without_rights(read_only: Path, cache: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(directory)
        if cache == "own":
            os.chown(kept, NOBODY, NOBODY)
        else:
            kept.chmod(0o755)
        command = (
            "from pytest_bpflink.vm.kernels import find\n"
            f"kernel = find({str(read_only)!r})\n"
            "print(kernel.modules)\n"
            "print((kernel.module_directory / 'modules.dep').read_text().count('9p.ko:'))\n"
        )
        done = run_as_nobody(
            [sys.executable, "-c", command],
            env={"BPFLINK_CACHE": str(kept), "HOME": "/", "PATH": os.environ["PATH"]},
            cwd="/",
        )
        modules, count = done.stdout.splitlines()[-2:]
        assert count == "1", done.stdout
        assert Path(modules).is_relative_to(kept) == (cache == "own")
        assert Path(modules).exists() == (cache == "own"), "a temporary index stays behind"


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
def test_index_that_another_user_may_have_written_is_made_anew(tree: Path) -> None:
    kernel = find(str(tree))
    assert kernel.module_directory
    planted = kernel.module_directory / "modules.dep"
    planted.write_text("planted")
    os.chown(planted, NOBODY, -1)
    again = find(str(tree))
    assert again.modules == kernel.modules
    assert planted.read_text() != "planted"
    assert planted.stat().st_uid == 0
    assert not stat.S_IMODE(kernel.module_directory.stat().st_mode) & 0o022


def test_indexes_that_nobody_used_for_30_days_are_removed(tree: Path, tmp_path: Path) -> None:
    indexes = tmp_path / "cache/modules"
    for days in (29, 31):
        (indexes / f"{days}").mkdir(parents=True)
        used = time.time() - days * DAY
        os.utime(indexes / f"{days}", (used, used))
    find(str(tree))
    names = {path.name for path in indexes.iterdir()}
    assert "29" in names
    assert "31" not in names


def test_use_of_an_index_is_remembered(tree: Path) -> None:
    modules = find(str(tree)).modules
    assert modules
    os.utime(modules, (0, 0))
    assert find(str(tree)).modules == modules
    assert time.time() - modules.stat().st_mtime < DAY


def test_depmod_is_missing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_bpflink.vm.programs.find", lambda _: None)
    with pytest.raises(
        KernelFetchError, match=r"depmod is needed .*: apt-get install kmod util-linux"
    ):
        find(str(tree))


def test_file_that_is_no_module(tree: Path) -> None:
    (module,) = tree.rglob("dummy.ko")
    module.write_text("no module")
    kernel = find(str(tree))
    assert kernel.modules
    assert depends(kernel.modules, kernel.release, "9p")


@pytest.mark.parametrize("config", [True, False], ids=["configured", "unknown"])
def test_package_that_lacks_a_module(tree: Path, *, config: bool) -> None:
    """As Ubuntu's linux-modules without linux-modules-extra; the configuration may be unknown."""
    for module in (*tree.rglob("virtio_pci.ko"), *tree.rglob("overlay.ko")):
        module.unlink()
    if not config:
        next(tree.glob("boot/config-*")).unlink()
    with pytest.raises(KernelUnusable) as raised:
        find(str(tree))
    assert str(raised.value) == (
        f"kernel {read_kernel(tree).release} can't"
        " run as a guest: it has no virtio_pci (CONFIG_VIRTIO_PCI), overlay (CONFIG_OVERLAY_FS),"
        " built in or as a module; unpack all packages of its modules beside it, or take a kernel"
        " that has them"
    )


def test_whether_a_kernel_has_9p(tree: Path) -> None:
    assert has_9p(find(str(tree))) is True
    next(tree.glob("boot/config-*")).unlink()
    assert has_9p(find(str(tree))) is True
    (builtin,) = tree.rglob("modules.builtin")
    builtin.unlink()
    kernel = find(str(tree))
    assert has_9p(kernel) is None
    assert has_9p(replace(kernel, config={"CONFIG_9P_FS": "y"})) is True
    assert has_9p(replace(kernel, modules=None)) is None
    assert has_9p(replace(kernel, modules=None, config={"CONFIG_VIRTIO_PCI": "y"})) is False
