"""The kernel inside an image: which formats are unpacked, and that damage is seen."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import shutil
import struct
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import unpack_kernel
from tests.support.kernel_trees import KERNEL, NOTE, bz_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def zstd(data: bytes) -> bytes:
    command = ["zstd", "--stdout", "--quiet"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def lz4(data: bytes) -> bytes:
    command = ["lz4", "-l", "-c", "-"]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def without(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not on this host")


COMPRESSIONS = [
    pytest.param(gzip.compress, id="gzip"),
    pytest.param(bz2.compress, id="bzip2"),
    pytest.param(partial(lzma.compress, check=lzma.CHECK_CRC32), id="xz"),
    pytest.param(zstd, id="zstd", marks=without("zstd")),
]


@pytest.mark.parametrize(
    "compress",
    [
        *COMPRESSIONS,
        pytest.param(partial(lzma.compress, format=lzma.FORMAT_ALONE), id="lzma"),
        pytest.param(lz4, id="lz4", marks=without("lz4")),
    ],
)
def test_kernel_is_unpacked(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    image = tmp_path / "image"
    # The kernel's build appends the size.
    image.write_bytes(bz_image(compress(KERNEL) + struct.pack("<I", len(KERNEL))))
    assert unpack_kernel.unpack(image, tmp_path / "vmlinux")
    assert (tmp_path / "vmlinux").read_bytes() == KERNEL


@pytest.mark.parametrize(
    "content",
    [
        b"no kernel at all" * 100,
        bz_image(b"an unknown format"),
        bz_image(lzma.compress(KERNEL.replace(NOTE, b""))),
    ],
    ids=["other", "format", "no PVH"],
)
def test_image_that_qemu_must_boot_itself(content: bytes, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(content)
    assert not unpack_kernel.unpack(image, tmp_path / "vmlinux")
    assert not (tmp_path / "vmlinux").exists()


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_flipped_byte_of_a_payload_is_seen(
    compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    # Nothing to compress: a flipped byte is one of the kernel's, whose size stays as it is.
    kernel = KERNEL + b"".join(hashlib.sha256(bytes([number])).digest() for number in range(250))
    payload = bytearray(compress(kernel) + struct.pack("<I", len(kernel)))
    payload[len(payload) // 2] ^= 1
    image = tmp_path / "image"
    image.write_bytes(bz_image(bytes(payload)))

    with pytest.raises(unpack_kernel.DamagedPayload):
        unpack_kernel.unpack(image, tmp_path / "vmlinux")

    assert not (tmp_path / "vmlinux").exists()


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_payload_that_is_cut_is_seen(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bz_image(compress(KERNEL)[:-30]))
    with pytest.raises(unpack_kernel.DamagedPayload):
        unpack_kernel.unpack(image, tmp_path / "vmlinux")


def test_image_whose_unpacking_program_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bz_image(b"\x28\xb5\x2f\xfd" + bytes(100)))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not unpack_kernel.unpack(image, tmp_path / "vmlinux")
