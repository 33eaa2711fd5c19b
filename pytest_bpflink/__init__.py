"""Test the life of BPF links: attach, pin, reopen, update, detach, and see what the kernel does.

All public names are importable from here; each is loaded when it is first asked for, so that a
pytest session that uses none of them pays nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bpffs import BpfFs as BpfFs
    from .cgroup import Attached as Attached
    from .cgroup import Cgroup as Cgroup
    from .compile import CompileError as CompileError
    from .errors import BpfError as BpfError
    from .errors import NotSupported as NotSupported
    from .errors import UnknownName as UnknownName
    from .errors import VerifierError as VerifierError
    from .ledger import DescriptorHolder as DescriptorHolder
    from .ledger import Holder as Holder
    from .ledger import PinHolder as PinHolder
    from .link import Link as Link
    from .link import link_ids as link_ids
    from .link import links as links
    from .linkinfo import CgroupLinkInfo as CgroupLinkInfo
    from .linkinfo import IterLinkInfo as IterLinkInfo
    from .linkinfo import KprobeMultiLinkInfo as KprobeMultiLinkInfo
    from .linkinfo import LinkInfo as LinkInfo
    from .linkinfo import NetfilterLinkInfo as NetfilterLinkInfo
    from .linkinfo import NetkitLinkInfo as NetkitLinkInfo
    from .linkinfo import NetnsLinkInfo as NetnsLinkInfo
    from .linkinfo import PerfEventLinkInfo as PerfEventLinkInfo
    from .linkinfo import RawTracepointLinkInfo as RawTracepointLinkInfo
    from .linkinfo import SockmapLinkInfo as SockmapLinkInfo
    from .linkinfo import StructOpsLinkInfo as StructOpsLinkInfo
    from .linkinfo import TcxLinkInfo as TcxLinkInfo
    from .linkinfo import TracingLinkInfo as TracingLinkInfo
    from .linkinfo import UprobeMultiLinkInfo as UprobeMultiLinkInfo
    from .linkinfo import XdpLinkInfo as XdpLinkInfo
    from .objects import Map as Map
    from .objects import Object as Object
    from .objects import Program as Program
    from .probe import KernelInfo as KernelInfo
    from .uapi import AttachFlags as AttachFlags
    from .uapi import AttachType as AttachType
    from .uapi import LinkType as LinkType
    from .uapi import PerfEventType as PerfEventType
    from .uapi import ProgType as ProgType
    from .wait import eventually as eventually

_MODULES = {
    "bpffs": ("BpfFs",),
    "cgroup": ("Attached", "Cgroup"),
    "compile": ("CompileError",),
    "errors": ("BpfError", "NotSupported", "UnknownName", "VerifierError"),
    "ledger": ("DescriptorHolder", "Holder", "PinHolder"),
    "link": ("Link", "link_ids", "links"),
    "linkinfo": (
        "CgroupLinkInfo",
        "IterLinkInfo",
        "KprobeMultiLinkInfo",
        "LinkInfo",
        "NetfilterLinkInfo",
        "NetkitLinkInfo",
        "NetnsLinkInfo",
        "PerfEventLinkInfo",
        "RawTracepointLinkInfo",
        "SockmapLinkInfo",
        "StructOpsLinkInfo",
        "TcxLinkInfo",
        "TracingLinkInfo",
        "UprobeMultiLinkInfo",
        "XdpLinkInfo",
    ),
    "objects": ("Map", "Object", "Program"),
    "probe": ("KernelInfo",),
    "uapi": ("AttachFlags", "AttachType", "LinkType", "PerfEventType", "ProgType"),
    "wait": ("eventually",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_HOME)  # noqa: PLE0605 - the names stand above once


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
