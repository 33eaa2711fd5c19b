"""Kernels to boot: on disk, in the user's store, or in a distribution's packages.

`find` turns a SPEC into a `Kernel`, `Store` keeps the fetched ones. A name's module is imported
when the name is first used, so that reading a kernel's config imports no code that fetches kernels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_bpflink.vm.kernels.kernel import Kernel as Kernel
    from pytest_bpflink.vm.kernels.kernel import KernelError as KernelError
    from pytest_bpflink.vm.kernels.kernel import KernelFetchError as KernelFetchError
    from pytest_bpflink.vm.kernels.kernel import KernelNotFound as KernelNotFound
    from pytest_bpflink.vm.kernels.kernel import KernelUnusable as KernelUnusable
    from pytest_bpflink.vm.kernels.specs import expand as expand
    from pytest_bpflink.vm.kernels.specs import find as find
    from pytest_bpflink.vm.kernels.store import Store as Store

_MODULES = {
    "kernel": (
        "Kernel",
        "KernelError",
        "KernelFetchError",
        "KernelNotFound",
        "KernelUnusable",
    ),
    "specs": ("expand", "find"),
    "store": ("Store",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
