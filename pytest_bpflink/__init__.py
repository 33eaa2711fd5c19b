"""Test the life of BPF links: attach, pin, reopen, update, detach, and see what the kernel does.

All public names are importable from here. Each is loaded at its first use, so that a session
without tests of BPF loads none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_bpflink.binding.uapi import AttachFlags as AttachFlags
    from pytest_bpflink.binding.uapi import AttachType as AttachType
    from pytest_bpflink.binding.uapi import BpfStream as BpfStream
    from pytest_bpflink.binding.uapi import Direction as Direction
    from pytest_bpflink.binding.uapi import LinkType as LinkType
    from pytest_bpflink.binding.uapi import MapType as MapType
    from pytest_bpflink.binding.uapi import PerfEventType as PerfEventType
    from pytest_bpflink.binding.uapi import ProgType as ProgType
    from pytest_bpflink.binding.uapi import RunFlags as RunFlags
    from pytest_bpflink.binding.uapi import TcAction as TcAction
    from pytest_bpflink.binding.uapi import Verdict as Verdict
    from pytest_bpflink.binding.uapi import XdpAction as XdpAction
    from pytest_bpflink.binding.uapi import XdpFlags as XdpFlags
    from pytest_bpflink.bpf.attaching.capture import Capture as Capture
    from pytest_bpflink.bpf.attaching.capture import Packet as Packet
    from pytest_bpflink.bpf.attaching.cgroup import Attached as Attached
    from pytest_bpflink.bpf.attaching.cgroup import Cgroup as Cgroup
    from pytest_bpflink.bpf.attaching.netns import Device as Device
    from pytest_bpflink.bpf.attaching.netns import NetNs as NetNs
    from pytest_bpflink.bpf.attaching.perf_event import PerfEvent as PerfEvent
    from pytest_bpflink.bpf.attaching.perf_event import SoftwareEvent as SoftwareEvent
    from pytest_bpflink.bpf.attaching.tc import TcFilter as TcFilter
    from pytest_bpflink.bpf.attaching.usdt import UsdtAttachment as UsdtAttachment
    from pytest_bpflink.bpf.bpffs import BpfFs as BpfFs
    from pytest_bpflink.bpf.events.events import Events as Events
    from pytest_bpflink.bpf.events.trace import BpfTrace as BpfTrace
    from pytest_bpflink.bpf.events.trace import Printed as Printed
    from pytest_bpflink.bpf.events.user_ring_buffer import EventWriter as EventWriter
    from pytest_bpflink.bpf.link import Link as Link
    from pytest_bpflink.bpf.link import link_ids as link_ids
    from pytest_bpflink.bpf.link import links as links
    from pytest_bpflink.bpf.maps.loaded_map import LoadedMap as LoadedMap
    from pytest_bpflink.bpf.maps.map import Map as Map
    from pytest_bpflink.bpf.maps.program_maps import ProgramMaps as ProgramMaps
    from pytest_bpflink.bpf.objects import Object as Object
    from pytest_bpflink.bpf.program import Program as Program
    from pytest_bpflink.bpf.programs.counting import Runs as Runs
    from pytest_bpflink.bpf.programs.loaded_program import LoadedProgram as LoadedProgram
    from pytest_bpflink.bpf.programs.runs import RunResult as RunResult
    from pytest_bpflink.bpf.wait import eventually as eventually
    from pytest_bpflink.errors import BpfError as BpfError
    from pytest_bpflink.errors import CompileError as CompileError
    from pytest_bpflink.errors import EventsLost as EventsLost
    from pytest_bpflink.errors import NotSupported as NotSupported
    from pytest_bpflink.errors import PacketsLost as PacketsLost
    from pytest_bpflink.errors import UnknownName as UnknownName
    from pytest_bpflink.errors import VerifierError as VerifierError
    from pytest_bpflink.errors import WrongArgument as WrongArgument
    from pytest_bpflink.features.kernel_info import KernelInfo as KernelInfo
    from pytest_bpflink.introspection.attachments import CgroupHolder as CgroupHolder
    from pytest_bpflink.introspection.attachments import DeviceHolder as DeviceHolder
    from pytest_bpflink.introspection.attachments import NetnsHolder as NetnsHolder
    from pytest_bpflink.introspection.attachments import SockmapHolder as SockmapHolder
    from pytest_bpflink.introspection.entries import Entry as Entry
    from pytest_bpflink.introspection.holders import DescriptorHolder as DescriptorHolder
    from pytest_bpflink.introspection.holders import Holder as Holder
    from pytest_bpflink.introspection.holders import ObjectHolder as ObjectHolder
    from pytest_bpflink.introspection.holders import PinHolder as PinHolder
    from pytest_bpflink.introspection.linkinfo import CgroupLinkInfo as CgroupLinkInfo
    from pytest_bpflink.introspection.linkinfo import IterLinkInfo as IterLinkInfo
    from pytest_bpflink.introspection.linkinfo import KprobeMultiLinkInfo as KprobeMultiLinkInfo
    from pytest_bpflink.introspection.linkinfo import LinkInfo as LinkInfo
    from pytest_bpflink.introspection.linkinfo import NetfilterLinkInfo as NetfilterLinkInfo
    from pytest_bpflink.introspection.linkinfo import NetkitLinkInfo as NetkitLinkInfo
    from pytest_bpflink.introspection.linkinfo import NetnsLinkInfo as NetnsLinkInfo
    from pytest_bpflink.introspection.linkinfo import PerfEventLinkInfo as PerfEventLinkInfo
    from pytest_bpflink.introspection.linkinfo import RawTracepointLinkInfo as RawTracepointLinkInfo
    from pytest_bpflink.introspection.linkinfo import SockmapLinkInfo as SockmapLinkInfo
    from pytest_bpflink.introspection.linkinfo import StructOpsLinkInfo as StructOpsLinkInfo
    from pytest_bpflink.introspection.linkinfo import TcxLinkInfo as TcxLinkInfo
    from pytest_bpflink.introspection.linkinfo import TracingLinkInfo as TracingLinkInfo
    from pytest_bpflink.introspection.linkinfo import TracingMultiLinkInfo as TracingMultiLinkInfo
    from pytest_bpflink.introspection.linkinfo import UprobeMultiLinkInfo as UprobeMultiLinkInfo
    from pytest_bpflink.introspection.linkinfo import XdpLinkInfo as XdpLinkInfo
    from pytest_bpflink.ledger.bpf_ledger import BpfLedger as BpfLedger
    from pytest_bpflink.ledger.bpf_ledger import Watch as Watch

_MODULES = {
    "ledger.bpf_ledger": ("BpfLedger", "Watch"),
    "bpf.bpffs": ("BpfFs",),
    "bpf.attaching.capture": ("Capture", "Packet"),
    "bpf.attaching.cgroup": ("Attached", "Cgroup"),
    "introspection.entries": ("Entry",),
    "errors": (
        "BpfError",
        "CompileError",
        "EventsLost",
        "NotSupported",
        "PacketsLost",
        "UnknownName",
        "VerifierError",
        "WrongArgument",
    ),
    "introspection.attachments": (
        "CgroupHolder",
        "DeviceHolder",
        "NetnsHolder",
        "SockmapHolder",
    ),
    "introspection.holders": ("DescriptorHolder", "Holder", "ObjectHolder", "PinHolder"),
    "bpf.events.events": ("Events",),
    "bpf.events.user_ring_buffer": ("EventWriter",),
    "bpf.link": ("Link", "link_ids", "links"),
    "introspection.linkinfo": (
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
        "TracingMultiLinkInfo",
        "UprobeMultiLinkInfo",
        "XdpLinkInfo",
    ),
    "bpf.maps.map": ("Map",),
    "bpf.maps.loaded_map": ("LoadedMap",),
    "bpf.maps.program_maps": ("ProgramMaps",),
    "bpf.attaching.netns": ("Device", "NetNs"),
    "bpf.objects": ("Object",),
    "bpf.attaching.perf_event": ("PerfEvent", "SoftwareEvent"),
    "bpf.attaching.tc": ("TcFilter",),
    "bpf.attaching.usdt": ("UsdtAttachment",),
    "features.kernel_info": ("KernelInfo",),
    "bpf.program": ("Program",),
    "bpf.programs.loaded_program": ("LoadedProgram",),
    "binding.uapi": (
        "AttachFlags",
        "AttachType",
        "BpfStream",
        "Direction",
        "LinkType",
        "MapType",
        "PerfEventType",
        "ProgType",
        "RunFlags",
        "TcAction",
        "Verdict",
        "XdpAction",
        "XdpFlags",
    ),
    "bpf.programs.runs": ("RunResult",),
    "bpf.events.trace": ("BpfTrace", "Printed"),
    "bpf.programs.counting": ("Runs",),
    "bpf.wait": ("eventually",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
