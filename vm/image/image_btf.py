"""The BTF in a kernel's image: the types of a kernel that this machine does not run."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pytest_bpflink.vm.architectures import ALL
from pytest_bpflink.vm.kernels import unpack_kernel

if TYPE_CHECKING:
    from pytest_bpflink.vm.kernels import Kernel

# The header of struct btf_header (Documentation/bpf/btf.rst): magic, version, flags, its own
# length; and then the places and the lengths of types and strings.
_BEGINNING, _PLACES = "HBBI", "IIII"
_MAGIC, _VERSION, _LENGTH = 0xEB9F, 1, 24
# The BTF of a kernel has tens of thousands of types; an image may hold the BTF of a module, too.
_LEAST = 1 << 20


def find(kernel: Kernel) -> bytes | None:
    """Return the BTF of a kernel; None if its image holds none that can be found."""
    order = "<" if ALL[kernel.arch].byte_order == "little" else ">"
    sign = struct.pack(order + _BEGINNING, _MAGIC, _VERSION, 0, _LENGTH)
    for data in unpack_kernel.contents(kernel.image):
        at = data.find(sign)
        while at >= 0:
            types, types_length, strings, strings_length = struct.unpack_from(
                order + _PLACES, data, at + len(sign)
            )
            length = _LENGTH + max(types + types_length, strings + strings_length)
            if _LEAST < length <= len(data) - at:
                return data[at : at + length]
            at = data.find(sign, at + 1)
    return None
