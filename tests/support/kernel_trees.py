"""Directories with the layout of kernels, and images with their fields: none can be booted."""

from __future__ import annotations

import os
import shutil
import struct
import time
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import Store

if TYPE_CHECKING:
    from pathlib import Path

DAY = 24 * 3600

CONFIG = """\
# Automatically generated file; DO NOT EDIT.
CONFIG_BLK_DEV_INITRD=y
CONFIG_TMPFS=y
CONFIG_DEVTMPFS=y
CONFIG_VIRTIO_PCI=m
CONFIG_VIRTIO_CONSOLE=m
CONFIG_NET_9P=m
CONFIG_NET_9P_VIRTIO=m
CONFIG_9P_FS=m
CONFIG_OVERLAY_FS=m
CONFIG_CGROUPS=y
CONFIG_BPF_SYSCALL=y
CONFIG_CGROUP_BPF=y
CONFIG_DEBUG_INFO_BTF=y
CONFIG_LSM="landlock,lockdown,yama"
# CONFIG_KASAN is not set
"""

_DRIVERS = [
    f"kernel/{name}.ko"
    for name in ("virtio_pci", "virtio_console", "9pnet", "9pnet_virtio", "9p", "overlay")
]

# A modules.dep with the drivers that guests need.
MODULES = "".join(f"{name}:\n" for name in _DRIVERS)


def module_files(directory: str) -> dict[str, str]:
    """Return the drivers that guests need, as files that depmod lists; they have no content."""
    return {f"{directory}/{name}": "" for name in ("modules.order", *_DRIVERS)}


def write(path: Path, text: str = "") -> Path:
    """Write a file, with the directories above it, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def add_kernel(store: Store, version: str, *, image: str = "kernel") -> Path:
    """Put a kernel into a store, as the store unpacks it, and return its directory."""
    tree = store.root / f"{version}-amd64_{version}-1"
    write(tree / f"boot/vmlinuz-{version}-amd64", image)
    write(tree / f"boot/config-{version}-amd64", CONFIG)
    (tree / f"lib/modules/{version}-amd64").mkdir(parents=True)
    return tree


@pytest.fixture
def aged_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Make a store with kernels that were last used 0, 10, 20 and 30 days ago."""
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path))
    store = Store()
    for number, version in enumerate(("6.1.99", "6.1.100", "6.12.5", "7.2.9")):
        tree = add_kernel(store, version, image="kernel" * 100_000)
        used = time.time() - number * 10 * DAY
        os.utime(tree, (used, used))
    return store


def versions(store: Store) -> list[str]:
    """Return the versions of the kernels in a store, as upstream names them."""
    return [kernel.upstream for kernel in store.kernels()]


# The modules that a guest needs to reach the host's root; and dummy, which tests load.
_NEEDED = {"9p", "9pnet", "9pnet_virtio", "fscache", "netfs", "overlay", "virtio", "virtio_console"}
_NEEDED |= {"dummy", "virtio_pci", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_ring"}


def copy_modules(source: Path, destination: Path) -> list[Path]:
    """Copy the modules that a guest needs, and return them."""
    copied = []
    for module in sorted(source.rglob("*.ko*")):
        if module.name.partition(".ko")[0].replace("-", "_") in _NEEDED:
            target = destination / module.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, target)
            copied.append(target)
    return copied


NOTE = struct.pack("<III", 4, 4, 18) + b"Xen\0" + bytes(4)
KERNEL = b"\x7fELF" + bytes(100) + NOTE + bytes(100)


def bz_image(payload: bytes) -> bytes:
    """Return an image with this payload and the fields of its header that matter."""
    header = bytearray(1024)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 16, len(payload))
    return bytes(header) + bytes(16) + payload + b"what follows"
