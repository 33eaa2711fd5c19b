"""The BTF in the images of kernels that this machine does not run."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.image import image_btf
from pytest_bpflink.vm.kernels import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def btf(order: str, size: int = 3 << 20) -> bytes:
    """Return what begins as BTF of a kernel does, and is as long."""
    header = struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, size // 2, size // 2, size // 2)
    return header + os.urandom(size // 2) + bytes(size // 2)


def _zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-1"], input=data, stdout=subprocess.PIPE, check=True).stdout


def kernel(directory: Path, arch: str, image: bytes) -> Kernel:
    """Return a kernel with this image."""
    (directory / "vmlinuz").write_bytes(image)
    return Kernel("6.12", "6.12", "6.12", directory / "vmlinuz", None, {}, arch=arch)


@pytest.mark.parametrize(("arch", "order"), [("arm64", "<"), ("s390x", ">")])
@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lzma.compress,
        pytest.param(
            _zstd,
            marks=pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed"),
        ),
    ],
    ids=["plain", "gzip", "xz", "zstd"],
)
def test_btf_is_found_wherever_it_is(
    tmp_path: Path, arch: str, order: str, pack: Callable[[bytes], bytes]
) -> None:
    types = btf(order)
    # The BTF of a module comes first, and is not the kernel's.
    inside = os.urandom(5001) + btf(order, 5000) + b"text" + types + b"more"
    image = b"\x1f\x8b no payload" + os.urandom(3000) + pack(inside) + os.urandom(3000)
    assert image_btf.find(kernel(tmp_path, arch, image)) == types


def test_image_without_btf(tmp_path: Path) -> None:
    cut = btf("<")[:-1]
    assert image_btf.find(kernel(tmp_path, "arm64", b"kernel" + cut)) is None
    assert image_btf.find(kernel(tmp_path, "s390x", btf("<"))) is None
