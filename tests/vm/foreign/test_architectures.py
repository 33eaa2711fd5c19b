"""Architectures: of a SPEC, of a kernel's image, and what a store keeps of each."""

from __future__ import annotations

import shutil
import struct
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.cache import refusals
from pytest_bpflink.vm.kernels import KernelNotFound, KernelUnusable, Store, find
from pytest_bpflink.vm.kernels.kernel import check_kernel
from pytest_bpflink.vm.machines import kvm, qemu
from pytest_bpflink.vm.machines.errors import MachineError
from tests.support.debian_archive import kernel_deb
from tests.support.kernel_trees import CONFIG, write
from tests.support.oci_layout import layer, layout_for

if TYPE_CHECKING:
    from pathlib import Path

FOREIGN = "s390x" if architectures.own() == "arm64" else "arm64"


def elf(machine: int, order: str) -> bytes:
    """Return the beginning of an ELF file."""
    sign = {"<": 1, ">": 2}[order]
    return (
        b"\x7fELF\x02" + bytes([sign]) + bytes(10) + struct.pack(f"{order}HH", 2, machine) + b"\0"
    )


IMAGES = {
    "amd64": bytes(0x202) + b"HdrS" + bytes(512),
    "arm64": b"MZ" + bytes(0x36) + b"ARMd",
    "riscv64": b"MZ" + bytes(0x36) + b"RSC\x05",
    "s390x": bytes(0x10008) + b"S390EP",
}


@pytest.mark.parametrize(
    ("image", "name"),
    [
        *((image, name) for name, image in IMAGES.items()),
        (elf(62, "<"), "amd64"),
        (elf(22, ">"), "s390x"),
        (elf(8, ">"), ""),
        (b"kernel", ""),
        (b"", ""),
    ],
)
def test_architecture_of_an_image(tmp_path: Path, image: bytes, name: str) -> None:
    (tmp_path / "vmlinuz").write_bytes(image)
    assert architectures.of_image(tmp_path / "vmlinuz") == name


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("arm64:6.12", ("arm64", "6.12")),
        ("s390x:/boot/a:b", ("s390x", "/boot/a:b")),
        ("6.12", ("", "6.12")),
        ("./arm64:6.12", ("", "./arm64:6.12")),
        ("sparc:6.12", ("", "sparc:6.12")),
    ],
)
def test_a_spec_begins_with_an_architecture(spec: str, parts: tuple[str, str]) -> None:
    assert architectures.split(spec) == parts


def make_kernel(tree: Path, name: str) -> Path:
    """Make an unpacked package with a kernel of an architecture."""
    (tree / "boot").mkdir(parents=True)
    (tree / "boot/vmlinuz-6.12.1").write_bytes(IMAGES[name])
    return tree


def test_kernel_of_another_architecture_asks_for_its_name(tmp_path: Path) -> None:
    tree = make_kernel(tmp_path / "a, b", FOREIGN)
    with pytest.raises(KernelUnusable) as caught:
        find(str(tree))
    assert str(caught.value) == f"{tree}: this is an {FOREIGN} kernel; write {FOREIGN}:{tree}"


def test_kernel_of_this_machine_is_none_of_another(tmp_path: Path) -> None:
    own = architectures.own()
    tree = make_kernel(tmp_path, own)
    with pytest.raises(KernelUnusable) as caught:
        find(f"{FOREIGN}:{tree}")
    assert str(caught.value) == f"{tree}: this is an {own} kernel; write {own}:{tree}"
    assert not find(f"{own}:{tree}").is_foreign


def test_kernel_of_another_architecture_by_path(tmp_path: Path) -> None:
    kernel = find(f"{FOREIGN}:{make_kernel(tmp_path, FOREIGN)}")
    assert (kernel.arch, kernel.is_foreign) == (FOREIGN, True)
    assert kernel.spec == f"{FOREIGN}:{tmp_path}"
    assert kvm.detect(kernel).reason == f"TCG: {FOREIGN} is emulated"


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not on this host")
def test_package_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    image, config = IMAGES[FOREIGN].decode(), CONFIG.replace("=m", "=y")
    kernel_deb("linux-image-6.12.1-me", "6.12.1-1", image=image, config=config).build(tmp_path)
    (deb,) = tmp_path.glob("*.deb")
    with pytest.raises(KernelUnusable) as caught:
        find(str(deb))
    assert str(caught.value) == f"{deb}: this is an {FOREIGN} kernel; write {FOREIGN}:{deb}"
    assert find(f"{FOREIGN}:{deb}").arch == FOREIGN
    said: list[str] = []
    with pytest.raises(KernelUnusable):  # although it is unpacked
        find(str(deb), progress=said.append)
    assert find(f"{FOREIGN}:{deb}", progress=said.append).arch == FOREIGN
    assert said == [f"{deb}: unpacking"]
    assert not [each for each in refusals() if str(tmp_path) in each]


@pytest.mark.skipif(not shutil.which("skopeo"), reason="skopeo is not on this host")
def test_image_for_several_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    config = {"boot/config-6.12.1": CONFIG.replace("=m", "=y")}
    images = {
        name: layer({"boot/vmlinuz-6.12.1": IMAGES[name], **config})
        for name in (architectures.own(), "arm64", "riscv64")
    }
    path = layout_for(tmp_path / "layout", images)
    wanted = (("", architectures.own()), ("arm64:", "arm64"), ("riscv64:", "riscv64"))
    said: list[str] = []
    for _ in range(2):
        for spec, arch in wanted:
            kernel = find(f"{spec}oci:{path}", progress=said.append)
            assert (kernel.arch, kernel.image.read_bytes()) == (arch, IMAGES[arch])
    assert said == [f"oci:{path}: unpacking"] * len(wanted)  # and each is kept


def test_the_running_kernel_is_of_this_architecture() -> None:
    with pytest.raises(KernelNotFound, match=f"^{FOREIGN}:host: the running kernel is an "):
        find(f"{FOREIGN}:host")


def test_driver_of_the_bus_depends_on_the_architecture(tmp_path: Path) -> None:
    write(tmp_path / "boot/config-6.12.1", CONFIG)
    tree = make_kernel(tmp_path / "tree", "s390x")
    write(tree / "boot/config-6.12.1", CONFIG)
    write(tree / "lib/modules/6.12.1/modules.dep")
    with pytest.raises(KernelUnusable, match="built without CONFIG_S390_GUEST;"):
        find(f"s390x:{tree}")
    built_in = CONFIG.replace("VIRTIO_PCI", "S390_GUEST").replace("=m", "=y")
    write(tree / "boot/config-6.12.1", built_in)
    assert check_kernel(find(f"s390x:{tree}")) == []


def test_each_architecture_has_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path))
    tree = make_kernel(Store(arch="s390x").root / "6.12.1-s390x_6.12.1-1", "s390x")
    (tree / "lib/modules/6.12.1").mkdir(parents=True)
    kernel = find("s390x:6.12")
    assert kernel.image.is_relative_to(tmp_path / "kernels-s390x")
    assert (kernel.spec, kernel.id, kernel.arch) == ("s390x:6.12", "s390x:6.12", "s390x")
    assert Store(arch="arm64").kernels() == []
    assert Store(arch="amd64").root == tmp_path / "kernels"


def test_emulator_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(MachineError) as caught:
        qemu.find(architectures.ALL["riscv64"])
    assert str(caught.value) == (
        "qemu-system-riscv64 is not installed: apt-get install qemu-system-misc"
    )
