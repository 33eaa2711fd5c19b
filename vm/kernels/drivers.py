"""The drivers that a guest needs, and whether a kernel has them, built in or as modules.

Knows a kernel's configuration and the lists of its modules. Where neither is there, the guest looks
for what `SIGNS` names.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, TypeVar

from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.kernels.kernel import KernelUnusable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_bpflink.vm.kernels.kernel import Kernel

_Of = TypeVar("_Of")

_PCI = "CONFIG_VIRTIO_PCI"
_MODULES = {
    "CONFIG_VIRTIO_PCI": "virtio_pci",
    "CONFIG_VIRTIO_CONSOLE": "virtio_console",
    "CONFIG_NET_9P": "9pnet",
    "CONFIG_NET_9P_VIRTIO": "9pnet_virtio",
    "CONFIG_9P_FS": "9p",
    "CONFIG_OVERLAY_FS": "overlay",
}
OF_9P = frozenset({"CONFIG_NET_9P", "CONFIG_NET_9P_VIRTIO", "CONFIG_9P_FS"})
"""The options by which a guest has the host's root."""

SIGNS = {
    "CONFIG_DEVTMPFS": ("mount", "/dev"),
    "CONFIG_TMPFS": ("mount", "/run"),
    "CONFIG_VIRTIO_PCI": ("directory", "/sys/bus/pci/drivers/virtio-pci"),
    "CONFIG_VIRTIO_CONSOLE": ("directory", "/sys/bus/virtio/drivers/virtio_console"),
    "CONFIG_NET_9P_VIRTIO": ("directory", "/sys/bus/virtio/drivers/9pnet_virtio"),
    "CONFIG_9P_FS": ("filesystem", "9p"),
    "CONFIG_OVERLAY_FS": ("filesystem", "overlay"),
}
"""By what a guest sees that its kernel has an option: a kind of sign, and its name."""


def signs(arch: str) -> dict[str, tuple[str, str]]:
    """Return the `SIGNS` for an architecture."""
    return _on_bus(arch, SIGNS, ("directory", "/sys/bus/ccw/drivers/virtio_ccw"))


def _modules(arch: str) -> dict[str, str]:
    return _on_bus(arch, _MODULES, "virtio_ccw")


def _on_bus(arch: str, of_pci: Mapping[str, _Of], of_ccw: _Of) -> dict[str, _Of]:
    """Return OF_PCI for an architecture, with OF_CCW in place of what is PCI's on s390x."""
    known = architectures.ALL.get(arch)
    if known is None or known.bus == "pci":
        return dict(of_pci)
    of_bus = {f"CONFIG_{known.driver}": of_ccw}
    return of_bus | {name: it for name, it in of_pci.items() if name != _PCI}


def has_9p(kernel: Kernel) -> bool | None:
    """Whether a guest of this kernel can have the host's root; None if only the guest can tell.

    The kernel's modules have an index, as `find` returns kernels.
    """
    missing = _missing(kernel)
    return None if missing is None else not OF_9P.intersection(missing)


@functools.cache
def is_packed(kernel: Kernel) -> bool:
    """Whether a kernel is known to lack 9p, so that its guests have a copy of the host's files."""
    return has_9p(kernel) is False


def check_drivers(kernel: Kernel) -> None:
    """Raise KernelUnusable if a driver is neither built in nor a module; one of 9p may be missing.

    The kernel's modules have an index. If neither its configuration nor its modules are known, the
    kernel passes.
    """
    missing = [option for option in _missing(kernel) or () if option not in OF_9P]
    if missing:
        modules = _modules(kernel.arch)
        names = ", ".join(f"{modules[option]} ({option})" for option in missing)
        raise KernelUnusable(
            f"kernel {kernel.release} can't run as a guest: it has no {names}, built in or as a"
            " module; unpack all packages of its modules beside it, or take a kernel that has them"
        )


def _missing(kernel: Kernel) -> list[str] | None:
    """Return the options whose driver a kernel lacks; None where that is not known."""
    directory, wanted = kernel.module_directory, _modules(kernel.arch)
    built_in = {*_names(directory / "modules.builtin")} if directory else set()
    modules = {*_names(directory / "modules.dep")} if directory else set()
    if kernel.config:
        built_in = {name for option, name in wanted.items() if kernel.config.get(option) == "y"}
    elif not built_in:
        return None
    return [option for option, name in wanted.items() if name not in built_in | modules]


def _names(listing: Path) -> Iterator[str]:
    """Yield the names of the modules in a list with a path on each line, before any colon."""
    if listing.exists():
        for line in listing.read_text().splitlines():
            module = os.path.basename(line.partition(":")[0])
            yield module.partition(".ko")[0].replace("-", "_")
