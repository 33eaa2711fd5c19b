"""Kernels in OCI images: layouts on the disk, read by a real skopeo."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import (
    KernelError,
    KernelFetchError,
    KernelNotFound,
    KernelUnusable,
    find,
)
from pytest_bpflink.vm.kernels.spelling import spelled
from pytest_bpflink.vm.kernels.unpacked import Unpacked
from tests.support.command import bpflink, table_of
from tests.support.kernel_trees import CONFIG, module_files
from tests.support.oci_layout import entry, layer, layout

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not shutil.which("skopeo"), reason="skopeo is not on this host: apt-get install skopeo"
)

RELEASE = "6.6.30-lvh"
BUILTIN = CONFIG.replace("=m", "=y")
IMAGE = "Linux version 6.6.9-ci (me@here) #1 SMP\n"

# As images of cilium/ci-kernels: all built in, and no release in the name.
CI_KERNEL = {"boot/vmlinuz": IMAGE, "boot/config": BUILTIN, "etc/passwd": "root"}

# As images of cilium/little-vm-helper-images.
LVH = {
    f"data/kernels/6.6-main/boot/vmlinuz-{RELEASE}": "kernel",
    f"data/kernels/6.6-main/boot/config-{RELEASE}": CONFIG,
    **module_files(f"data/kernels/6.6-main/lib/modules/{RELEASE}"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty cache, whose path has a space and a comma."""
    directory = tmp_path / "cache, mine"
    monkeypatch.setenv("BPFLINK_CACHE", str(directory))
    return directory


def unpacked(cache: Path) -> list[str]:
    """Return the files of all kernels that are kept, without the index of modules."""
    (tree,) = (cache / "unpacked").glob("[!.]*")
    files = [str(file.relative_to(tree)) for file in tree.rglob("*") if file.is_file()]
    return sorted(file for file in files if "modules." not in file and "unpacked.json" not in file)


def test_image_of_ci_kernels(tmp_path: Path, cache: Path) -> None:
    spec = f"oci:{layout(tmp_path / 'a, b', layer(CI_KERNEL))}"
    said: list[str] = []

    kernel = find(spec, progress=said.append)

    assert (kernel.spec, kernel.release) == (spec, "6.6.9-ci")
    assert kernel.id.startswith("a-b-")
    assert kernel.image.read_text() == IMAGE
    assert kernel.config["CONFIG_9P_FS"] == "y"
    assert unpacked(cache) == ["boot/config", "boot/vmlinuz"]
    assert said == [f"{spec}: unpacking"]
    said.clear()
    assert find(spec, progress=said.append).image == kernel.image
    assert said == []


def test_image_of_little_vm_helper(tmp_path: Path) -> None:
    kernel = find(f"oci:{layout(tmp_path / 'lvh', layer(LVH))}")
    assert kernel.release == RELEASE
    assert kernel.modules
    assert (kernel.modules / "lib/modules" / RELEASE / "modules.dep").exists()
    assert kernel.config["CONFIG_9P_FS"] == "m"


def test_image_of_a_system(tmp_path: Path) -> None:
    directory = f"./usr/lib/modules/{RELEASE}"
    files = {f"{directory}/vmlinuz": "kernel", f"{directory}/config": CONFIG}
    files |= module_files(directory)
    kernel = find(f"oci:{layout(tmp_path / 'system', layer(files))}")
    assert (kernel.release, kernel.config["CONFIG_9P_FS"]) == (RELEASE, "m")


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not on this host")
def test_layers_may_be_compressed_otherwise(tmp_path: Path) -> None:
    zstd = layout(tmp_path / "zstd", layer(CI_KERNEL), compression="zstd")
    assert find(f"oci:{zstd}").release == "6.6.9-ci"
    plain = layout(tmp_path / "plain", layer(CI_KERNEL), compression="")
    assert find(f"oci:{plain}").release == "6.6.9-ci"


def test_tag_chooses_among_images(tmp_path: Path) -> None:
    other = CI_KERNEL | {"boot/vmlinuz": IMAGE.replace("6.6.9", "6.6.10")}
    root = layout(tmp_path / "a: b", layer(CI_KERNEL), tag="9")
    layout(root, layer(other), tag="10")
    assert find(f"oci:{root}:9").release == "6.6.9-ci"
    assert find(f"oci:{root}:10").release == "6.6.10-ci"
    with pytest.raises(KernelFetchError, match=f'skopeo could not read oci:{root}:11: .*"11"'):
        find(f"oci:{root}:11")


def test_image_that_changed_is_unpacked_anew(tmp_path: Path) -> None:
    root = layout(tmp_path / "image", layer(CI_KERNEL))
    assert find(f"oci:{root}").release == "6.6.9-ci"
    shutil.rmtree(root)
    layout(root, layer(CI_KERNEL | {"boot/vmlinuz": IMAGE.replace("6.6.9", "6.6.10")}))
    assert find(f"oci:{root}").release == "6.6.10-ci"


def test_upper_layers_remove_what_lower_ones_have(tmp_path: Path, cache: Path) -> None:
    lower = {
        "boot/vmlinuz-6.1.1": "old",
        "boot/vmlinuz-6.6.9": "old",
        "lib/modules/6.6.9/kernel/gone": "",
        "lib/modules/6.6.9/kernel/late": "old",
        "lib/modules/6.1.1/kernel/all": "",
        "data/kernels/6.1/boot/vmlinuz-6.1.2": "old",
        "usr/lib/modules/file": "",
    }
    upper = {
        "boot/config-6.6.9": BUILTIN,
        "boot/vmlinuz-6.6.9": "new",
        "lib/modules/6.6.9/kernel/late": "new",
        # These remove nothing of their own layer, wherever they stand in it.
        "lib/modules/6.6.9/.wh.kernel": "",
        "lib/modules/.wh.6.1.1": "",
        "boot/.wh.vmlinuz-6.1.1": "",
        "data/kernels/.wh..wh..opq": "",
        "usr/lib/modules/file/below": "",
    }

    kernel = find(f"oci:{layout(tmp_path / 'image', layer(lower), layer(upper))}")

    assert kernel.image.read_text() == "new"
    assert unpacked(cache) == [
        "boot/config-6.6.9",
        "boot/vmlinuz-6.6.9",
        "lib/modules/6.6.9/kernel/late",
        "usr/lib/modules/file/below",
    ]


def test_only_plain_files_are_unpacked(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "outside").mkdir()
    entries = CI_KERNEL | {
        "boot/link": entry(tarfile.SYMTYPE, str(tmp_path / "outside")),
        "boot/link/planted": "planted",
        "boot/device": entry(tarfile.CHRTYPE),
        "boot/pipe": entry(tarfile.FIFOTYPE),
        "boot/again": entry(tarfile.LNKTYPE, "boot/vmlinuz"),
        "lib/modules/6.6.9-ci/build": entry(tarfile.SYMTYPE, "/usr/src"),
    }
    setuid = tarfile.TarInfo()
    setuid.mode, setuid.uid = 0o6777, 1
    entries["boot/setuid"] = setuid

    find(f"oci:{layout(tmp_path / 'image', layer(entries))}")

    files = ["again", "config", "link/planted", "setuid", "vmlinuz"]
    assert unpacked(cache) == [f"boot/{name}" for name in files]
    assert not list((tmp_path / "outside").iterdir())
    for path in cache.rglob("*"):
        assert path.is_dir() or path.is_file()
        assert not path.is_symlink()
        assert path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | 0o022) == 0
        assert path.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("name", ["boot/../../planted", "../planted", "boot/.wh...", "a/.."])
def test_image_that_leads_out_of_its_directory(tmp_path: Path, cache: Path, name: str) -> None:
    spec = f"oci:{layout(tmp_path / 'image', layer(CI_KERNEL | {name: 'x'}))}"
    with pytest.raises(KernelUnusable) as caught:
        find(spec)
    led = name.removeprefix("boot/.wh.") if ".wh." in name else name
    assert str(caught.value) == (
        f"{spec} is no image that can be used: its entry {led!r} leads out of it"
    )
    assert [path.name for path in cache.rglob("*")] == ["unpacked", ".lock"]


# What is wrong with an image


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_image_is_refused(tmp_path: Path, cache: Path, damage: str) -> None:
    root = layout(tmp_path / "image", layer(CI_KERNEL))
    blobs = [*root.glob("blobs/sha256/*")]
    assert len(blobs) == 3
    for blob in blobs:
        right = blob.read_bytes()
        blob.unlink()
        if damage != "gone":
            # What follows JSON or gzip data changes nothing but the digest.
            blob.write_bytes(right + b" " if damage == "changed" else right[:-1])
        with pytest.raises(KernelError) as caught:
            find(f"oci:{root}")
        sentences = (
            f"oci:{root} is damaged: {blob} has another digest",
            f"skopeo could not read oci:{root}: ",
        )
        assert str(caught.value).startswith(sentences)
        blob.write_bytes(right)
    assert [path.name for path in cache.rglob("*")] == ["unpacked", ".lock"]
    find(f"oci:{root}")


@pytest.mark.parametrize("index", ["", "[]", '{"manifests": 1}', '{"manifests": [1]}', "\xff"])
def test_damaged_index_is_refused(tmp_path: Path, index: str) -> None:
    root = layout(tmp_path / "image", layer(CI_KERNEL))
    (root / "index.json").write_bytes(index.encode("latin-1"))
    with pytest.raises(KernelUnusable) as caught:
        find(f"oci:{root}")
    assert str(caught.value) == f"oci:{root} is damaged: one of its indexes is no index"


def test_image_without_a_kernel(tmp_path: Path) -> None:
    root = layout(tmp_path / "image", layer({"etc/passwd": "root"}))
    with pytest.raises(KernelNotFound) as caught:
        find(f"oci:{root}")
    assert str(caught.value) == (
        f"oci:{root} holds no kernel: expected boot/vmlinuz, boot/vmlinuz-RELEASE,"
        " usr/lib/modules/RELEASE/vmlinuz or data/kernels/NAME/boot in it"
    )


def test_image_with_two_kernels(tmp_path: Path) -> None:
    two = LVH | {name.replace("6.6", "6.1"): text for name, text in LVH.items()}
    root = layout(tmp_path / "image", layer(two))
    with pytest.raises(KernelNotFound) as caught:
        find(f"oci:{root}")
    assert str(caught.value) == (
        f"oci:{root} holds 2 kernels, 6.1.30-lvh, 6.6.30-lvh: an image with one is needed"
    )


def test_image_whose_modules_are_missing(tmp_path: Path) -> None:
    image = CI_KERNEL | {"boot/config": CONFIG}
    with pytest.raises(KernelUnusable, match=r"CONFIG_OVERLAY_FS as modules, and its modules are"):
        find(f"oci:{layout(tmp_path / 'image', layer(image))}")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("oci:", "'oci:' names no image: write oci:REF, such as oci:registry.example/name:tag, or"),
        ("oci:/nowhere", "oci:/nowhere is no image: /nowhere/index.json can't be read (No such f"),
        ("oci:./no:1", "/no:1 is no image: "),
        ("oci:{}", "oci:{} is no image: {}/index.json can't be read (No such file or directory)"),
        (
            "oci:a..b/x",
            "skopeo could not read oci:a..b/x: Invalid source name docker://a..b/x: inv",
        ),
        (
            "oci:127.0.0.1:9/ci-kernels:6.6",
            "source docker://127.0.0.1:9/ci-kernels:6.6: pinging container registry 127.0.0.1:9",
        ),
    ],
)
def test_spec_that_names_no_image(tmp_path: Path, spec: str, sentence: str) -> None:
    with pytest.raises(KernelError) as caught:
        find(spec.format(tmp_path))
    assert sentence.format(tmp_path, tmp_path) in str(caught.value)


def test_without_skopeo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = layout(tmp_path / "image", layer(CI_KERNEL))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pytest_bpflink.vm.programs._PATH_OF_ROOT", "/nonexistent")
    with pytest.raises(KernelFetchError) as caught:
        find(f"oci:{root}")
    assert str(caught.value) == f"oci:{root} is read by skopeo: apt-get install skopeo"


# Which SPEC is what


def test_name_is_a_layout_if_it_is_there_or_reads_like_a_path(tmp_path: Path) -> None:
    (tmp_path / "ghcr.example/name").mkdir(parents=True)
    for spec, path, suffix in [
        ("oci:ghcr.example/name", tmp_path / "ghcr.example/name", ""),
        ("oci:ghcr.example/name:6.6", tmp_path / "ghcr.example/name", ":6.6"),
        ("oci:ghcr.example/other:6.6", None, "ghcr.example/other:6.6"),
        ("oci:name", None, "name"),
        ("oci:./name:6.6", tmp_path / "./name:6.6", ""),
        ("oci:../name", tmp_path / "../name", ""),
        ("6.6", None, "6.6"),
        ("name/6.6", tmp_path / "name/6.6", ""),
        ("ghcr.example", tmp_path / "ghcr.example", ""),
    ]:
        found = spelled(spec, tmp_path)
        assert (found.path, found.suffix) == (path, suffix), spec


# What is kept


def test_unpacked_kernels_are_listed_and_removed(tmp_path: Path) -> None:
    root = layout(tmp_path / "image", layer(CI_KERNEL))
    kernel = find(f"oci:{root}")
    row, *_ = table_of(bpflink("kernels", "list", COLUMNS="1000").stdout)
    assert row[:3] == [f"oci:{root}", "6.6.9-ci", "6.6.9-ci"]
    done = bpflink("kernels", "remove", f"oci:{root}")
    assert done.stderr == f"bpflink: oci:{root} is in use, and stays\n"
    del kernel
    (shown,) = json.loads(bpflink("kernels", "remove", f"oci:{root}", "--json").stdout)
    assert shown["release"] == "6.6.9-ci"
    assert Unpacked().kernels() == []


def test_unpacked_kernels_are_pruned(tmp_path: Path) -> None:
    find(f"oci:{layout(tmp_path / 'image', layer(CI_KERNEL))}")
    (kept,) = Unpacked().kernels()
    assert bpflink("kernels", "prune").stdout == "0 kernels, 0 B left\n"
    os.utime(kept.path, (1, 1))
    done = bpflink("kernels", "prune")
    assert done.stdout.startswith("removed Linux 6.6.9-ci (6.6.9-ci), ")
    assert Unpacked().kernels() == []


def test_kept_kernel_that_is_damaged_is_unpacked_again(tmp_path: Path) -> None:
    spec = f"oci:{layout(tmp_path / 'image', layer(CI_KERNEL))}"
    image = find(spec).image
    image.unlink()
    assert find(spec).image.read_text() == IMAGE


def test_cache_that_can_only_be_read(tmp_path: Path, cache: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    kept, other = (
        f"oci:{layout(tmp_path / name, layer(CI_KERNEL | {'boot/x': name}))}" for name in "ab"
    )
    here = find(kept).image
    assert here.is_relative_to(cache)
    script = (
        f"from pytest_bpflink.vm.kernels import find; print(find({kept!r}).image);"
        f" print(find({other!r}).image.read_text(), end='')"
    )
    mount = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", cache, sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{here}\n{IMAGE}", "")
    assert len(Unpacked().kernels()) == 1
