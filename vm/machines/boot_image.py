"""The image that QEMU boots: an unpacked kernel, which spares it unpacking itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bpflink.vm.machines.errors import DamagedImage

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_bpflink.vm.kernels import Kernel


def find(kernel: Kernel, unpacked: Path) -> Path:
    """Return a kernel's image, unpacked to this path if that is possible.

    Raises DamagedImage.
    """
    from pytest_bpflink.vm.kernels import unpack_kernel

    try:
        return unpacked if unpack_kernel.unpack(kernel.image, unpacked) else kernel.image
    except unpack_kernel.DamagedPayload as error:
        raise DamagedImage(_damaged(kernel, error)) from None


def _damaged(kernel: Kernel, why: Exception) -> str:
    fetched = kernel.lease is not None
    name = f"{kernel.arch}:{kernel.version}" if kernel.is_foreign else kernel.version
    again = f"fetch it again: bpflink kernels remove {name}" if fetched else "replace it"
    return f"{kernel.image} is damaged, since its payload does not unpack ({why}); {again}"
