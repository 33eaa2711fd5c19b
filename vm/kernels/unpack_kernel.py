"""Unpacks the kernel inside a compressed image, so that QEMU enters it at once, through PVH.

Under emulation a kernel takes seconds to unpack itself. Knows x86's boot protocol; images of other
architectures stay as they are.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import subprocess
import zlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    # Returns the kernel in a payload; None where the program that unpacks it does not run.
    _Unpacker = Callable[[bytes], bytes | None]

ELF = b"\x7fELF"
"""The first bytes of a kernel that is not compressed."""

# Offsets in the image (Documentation/arch/x86/boot.rst).
_SETUP_SECTORS, _MAGIC, _PAYLOAD = 0x1F1, 0x202, 0x248

# An ELF note of Xen's, type 18 (XEN_ELFNOTE_PHYS32_ENTRY); without it QEMU refuses an ELF kernel.
_PVH_NOTES = tuple(
    struct.pack("<III", 4, size, 18) + b"Xen\0"
    for size in (4, 8)  # bytes of the address, by kernel
)


class DamagedPayload(Exception):  # noqa: N818 (reads as what happened)
    """The compressed kernel inside an image does not unpack; the message says why.

    `unpacked` is what comes before the damage, where that is known.
    """

    def __init__(self, why: str, unpacked: bytes = b"") -> None:
        self.unpacked = unpacked
        super().__init__(why)


def unpack(image: Path, destination: Path) -> bool:
    """Write the kernel inside IMAGE to DESTINATION; return False where QEMU needs IMAGE itself.

    Raises DamagedPayload. The formats have checksums of the kernel, but for LZMA and LZ4.
    """
    kernel = payload(image.read_bytes())
    if kernel is None or not any(note in kernel for note in _PVH_NOTES):
        return False
    destination.write_bytes(kernel)
    return True


def contents(image: Path) -> Iterator[bytes]:
    """Yield an image, and what can be unpacked of it wherever in it a compressed payload begins.

    For images of any architecture. What follows a payload is not known, so what a program has
    unpacked before it meets that counts.
    """
    data = image.read_bytes()
    yield data
    for sign, unpacker in _UNPACKERS.items():
        at = data.find(sign)
        while at >= 0:
            try:
                unpacked = unpacker(data[at:])
            except DamagedPayload as damaged:
                unpacked = damaged.unpacked
            if unpacked:
                yield unpacked
            at = data.find(sign, at + 1)


def payload(image: bytes) -> bytes | None:
    """Return the kernel inside an image, or IMAGE if it is one; None if it is neither.

    Raises DamagedPayload.
    """
    if image.startswith(ELF):
        return image
    if image[_MAGIC : _MAGIC + 4] != b"HdrS":
        return None
    offset, length = struct.unpack_from("<II", image, _PAYLOAD)
    start = ((image[_SETUP_SECTORS] or 4) + 1) * 512 + offset
    packed = image[start : start + length]
    unpacker = next((each for sign, each in _UNPACKERS.items() if packed.startswith(sign)), None)
    kernel = unpacker(packed) if unpacker else None
    return kernel if kernel and kernel.startswith(ELF) else None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _stream(new: Callable[[], _Decompressor]) -> _Unpacker:
    def run(payload: bytes) -> bytes:
        decompressor = new()
        try:
            kernel = decompressor.decompress(payload)
        except (OSError, lzma.LZMAError, zlib.error) as error:  # OSError: of bz2
            raise DamagedPayload(str(error)) from None
        if not decompressor.eof:
            raise DamagedPayload("it ends early")
        return kernel

    return run


def _program(name: str) -> _Unpacker:
    def run(payload: bytes) -> bytes | None:
        # The kernel's build appends the size, which these programs would take for the next frame.
        command = [name, "--decompress", "--stdout", "--quiet"]
        try:
            done = subprocess.run(command, input=payload[:-4], capture_output=True, check=False)
        except OSError:  # it is not installed
            return None
        if done.returncode < 0:  # killed
            return None
        if done.returncode:
            raise DamagedPayload(done.stderr.decode(errors="replace").strip(), done.stdout)
        return done.stdout

    return run


# Decompressors that ignore what follows; Python has no zstd before 3.14, and no lz4.
_UNPACKERS: dict[bytes, _Unpacker] = {
    b"\x1f\x8b": _stream(lambda: zlib.decompressobj(wbits=31)),
    b"BZh": _stream(bz2.BZ2Decompressor),
    b"\xfd7zXZ": _stream(lzma.LZMADecompressor),
    b"\x5d\0\0": _stream(lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": _program("zstd"),
    b"\x02\x21\x4c\x18": _program("lz4"),
}
