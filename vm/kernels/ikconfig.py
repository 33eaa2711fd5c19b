"""Finds a kernel's configuration inside its image, where CONFIG_IKCONFIG puts it.

`kernel` looks for it beside the image first.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_part, usable, writable
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.kernels import unpack_kernel
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

# Before a file in gzip's format (kernel/configs.c).
_START = b"IKCFG_ST"
_GZIP = b"\x1f\x8b\x08"

# The configuration of a distribution's kernel has 300 KB.
_MOST_BYTES = 1 << 24


def extract(image: Path) -> Path | None:
    """Return a file with the configuration inside IMAGE; None if the image has none.

    The file is in the cache, and guests see it. It is made when IMAGE is first asked about.
    """
    about = json.dumps([str(image), *identity(image)])
    name = hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:32]
    file = writable(usable(cache_part("configs") / name), unless=os.path.isfile)
    if not file.is_file():
        text = _inside(image)
        if text is None:
            return None
        write_whole(file, text)
    return file


def _inside(image: Path) -> bytes | None:
    if not image.stat().st_size:
        return None
    with image.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        # An uncompressed kernel with debug information may be larger than the memory.
        found = _unpacked(content, content.find(_START + _GZIP))
        if found or content[:4] == unpack_kernel.ELF:
            return found
        try:
            kernel = unpack_kernel.payload(content[:])
        except unpack_kernel.DamagedPayload:
            return None  # the boot says so
    return _unpacked(kernel, kernel.find(_START + _GZIP)) if kernel else None


def _unpacked(content: bytes | mmap.mmap, start: int) -> bytes | None:
    if start < 0:
        return None
    packed = content[start + len(_START) : start + len(_START) + _MOST_BYTES]
    unpacker = zlib.decompressobj(wbits=31)
    try:
        text = unpacker.decompress(packed, _MOST_BYTES)
    except zlib.error:
        return None
    return text if unpacker.eof else None
