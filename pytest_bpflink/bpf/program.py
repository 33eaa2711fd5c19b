"""Programs of BPF objects, and the ways in which programs of each type attach."""

from __future__ import annotations

import ctypes
import errno
import inspect
import mmap
import os
import struct
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import AttachType, BpfNumber, ProgType
from pytest_bpflink.bpf.attaching import attach, attach_events
from pytest_bpflink.bpf.attaching.cgroup import Cgroup
from pytest_bpflink.bpf.attaching.netns import Device, NetNs
from pytest_bpflink.bpf.attaching.perf_event import PerfEvent
from pytest_bpflink.bpf.attaching.usdt import UsdtAttachment, attach_usdt, to_usdt
from pytest_bpflink.bpf.handles import ObjectHandle
from pytest_bpflink.bpf.maps.map import Map
from pytest_bpflink.bpf.maps.program_maps import map_ids
from pytest_bpflink.bpf.programs.loaded_program import LoadedProgram
from pytest_bpflink.bpf.verification import verified_again
from pytest_bpflink.errors import BpfError, WrongArgument
from pytest_bpflink.introspection.ids import note_made

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.bpf.link import Link
    from pytest_bpflink.bpf.programs.references import ProgramReference
    from pytest_bpflink.bpf.verification import Verification


# The most that all kernels take. Before Linux 6.4 a longer log is ENOSPC.
_LOG_BYTES = (1 << 24) - 1


class Owner(ObjectHandle, Protocol):
    """The object that a program is borrowed from."""

    @property
    def maps(self) -> Mapping[str, Map]:
        """All maps of the object."""


class LibbpfProgram:
    """A program of an object, as libbpf knows it."""

    is_open = False
    """The object has it."""

    def __init__(self, owner: Owner, pointer: int) -> None:
        self.owner = owner
        self._pointer = pointer
        self.name = libbpf.text("bpf_program__name", pointer) or ""
        self.section = libbpf.text("bpf_program__section_name", pointer) or ""

    @property
    def pointer(self) -> int:
        """The `struct bpf_program *`. Raises `BpfError` with EBADF after the object is closed."""
        _ = self.owner.pointer
        return self._pointer

    @property
    def fd(self) -> int:
        """The program's descriptor. Raises `BpfError` before the object is loaded."""
        return self._ask("bpf_program__fd")

    @property
    def type(self) -> ProgType:
        """The program's type."""
        return ProgType(self._ask("bpf_program__type"))

    @property
    def btf(self) -> Btf | None:
        """The object's types."""
        return self.owner.btf

    @property
    def maps(self) -> list[Map]:
        """The maps that the loaded program uses."""
        used = set(map_ids(self.fd, doing=f"look for the maps of program {self.name}"))
        return [each for each in self.owner.maps.values() if each.id in used]

    def pin(self, path: str | os.PathLike[str], doing: str) -> None:
        """Pin the program."""
        note_made("program", libbpf.read_info(self.fd, BpfNumber, doing=doing).id)
        libbpf.call("bpf_program__pin", self.pointer, os.fsencode(path), doing=doing)

    def close(self) -> None:
        """Nothing: closing the object closes the program."""

    def _ask(self, function: str) -> int:
        return libbpf.call(function, self.pointer, doing=f"ask about program {self.name}")


class Program(LoadedProgram):
    """A program of an `Object`, borrowed from it; or one that is opened, and closed.

    What is chosen before loading, the cost of verifying, and attaching need an `Object`: for
    another program they raise `BpfError` with EINVAL.
    """

    def __init__(self, reference: ProgramReference, *, is_lent: bool = False) -> None:
        super().__init__(reference, is_lent=is_lent)
        self.section = reference.section if isinstance(reference, LibbpfProgram) else ""
        """The text of `SEC()`: the program's type and, for most types, its target.

        Empty for a program that no `Object` has.
        """
        self._log: ctypes.Array[ctypes.c_char] | None = None

    @property
    def owner(self) -> Owner:
        """The object that it is borrowed from. Raises `BpfError` with EINVAL for none."""
        return self._of_object("look for the object of").owner

    @property
    def expected_attach_type(self) -> AttachType:
        """The attach type for which the program is loaded."""
        return AttachType(self._ask("bpf_program__expected_attach_type"))

    @property
    def stack_depth(self) -> int:
        """Bytes of stack of the program and its functions; raises as `verification_time`."""
        return sum(self._verification.stack_depths)

    @property
    def verification_time(self) -> int:
        """Microseconds that the verifier took, for another copy of the program.

        The kernel tells what it cost only while it loads a program, so this loads the program once
        more, on the same maps. Raises `BpfError` where that fails, as for struct_ops.
        """
        return self._verification.time

    @property
    def prints(self) -> bool:
        """Whether the loaded program calls `bpf_printk`; it, or a function in it."""
        pointer = self._of_object("read instructions").pointer
        count = libbpf.call("bpf_program__insn_cnt", pointer, doing="count instructions")
        address = libbpf.call("bpf_program__insns", pointer, doing="read instructions")
        code = ctypes.string_at(address, 8 * count)
        return any(_calls(code, helper) for helper in _PRINTING)

    def set_autoload(self, load: bool) -> None:  # noqa: FBT001 - libbpf's own shape
        """Choose, before `Object.load()`, whether it loads this program."""
        self._change("bpf_program__set_autoload", load, verb="set autoload of")

    def set_type(self, kind: ProgType) -> None:
        """Choose, before `Object.load()`, the program's type: of a section that names none, say."""
        self._change("bpf_program__set_type", ProgType(kind), verb=f"set type {kind.name} of")

    def set_expected_attach_type(self, kind: AttachType) -> None:
        """Choose, before `Object.load()`, the attach type for which the program is loaded."""
        verb = f"set attach type {kind.name} of"
        self._change("bpf_program__set_expected_attach_type", AttachType(kind), verb=verb)

    def set_attach_target(self, function: str, program: Program | None = None) -> None:
        """Choose, before `Object.load()`, the function that the program attaches to.

        For fentry, fexit, fmod_ret, LSM, tp_btf and iterators it is a function or type of the
        kernel, for freplace (and fentry on BPF) a function of the loaded PROGRAM. Raises `BpfError`
        with ESRCH or ENOENT if there is no such function, EINVAL after loading.
        """
        doing = f"set the target of {self.name} to {function}"
        fd = program.fd if program else 0
        pointer, name = self._of_object(doing).pointer, os.fsencode(function)
        libbpf.call("bpf_program__set_attach_target", pointer, fd, name, doing=doing)

    def set_log_level(self, level: int) -> None:
        """Have the verifier write a log when the program is loaded, which is then `log`.

        1 is the path that failed, 2 each instruction; 4 alone the statistics.
        """
        # Memory that is not written takes none.
        self._log = (ctypes.c_char * _LOG_BYTES).from_buffer(mmap.mmap(-1, _LOG_BYTES))
        self._change("bpf_program__set_log_level", level, verb="set the log's level of")
        doing = f"give {self.name} room for its log"
        pointer = self._of_object(doing).pointer
        libbpf.call("bpf_program__set_log_buf", pointer, self._log, len(self._log), doing=doing)

    @property
    def log(self) -> str:
        """The verifier's log of the program; empty without `set_log_level()`."""
        return self._log.value.decode(errors="replace") if self._log else ""

    def attach_usdt(
        self, file: Path | None = None, *, probe: str = "", pid: int = -1, cookie: int = 0
    ) -> UsdtAttachment:
        """Attach to all places of a USDT probe, by as many BPF links as that takes, or by none.

        The program is one of `SEC("usdt")`; without `file` it attaches to the probe that `SEC()`
        names. `probe` is `"provider:name"`; `pid` is a process, 0 this one, -1 each that has the
        file. Kernels before 5.15 attach to a library for one process only. libbpf accounts for a
        probe's arguments in the object, which has room for 256 of them.

        `attach()` is the same where one link is enough. Raises `BpfError`: ENOENT for a probe that
        the file does not have; `WrongArgument` for a program of another section; `NotSupported`.
        """
        doing = f"attach {self.name} ({self.type.name}, {self.section}) to a USDT probe"
        if _way_of(self) is not _USDT:
            raise WrongArgument(doing, hint='it takes a program in SEC("usdt")')
        if not isinstance(file, _USDT.targets):
            raise WrongArgument(doing, hint=f"it takes a Path, not {file!r}")
        return attach_usdt(self, file, probe=probe, pid=pid, cookie=cookie)

    def attach(self, target: object | None = None, **options: Any) -> Link:
        """Attach the program by a BPF link, which the caller destroys.

        The program's type decides which `target` and which options it takes:

        - cgroup programs: a `Cgroup`; `flags`, `relative` (a program or link to stand before or
          after) and `expected_revision` (libbpf 1.6; kernels before 6.17 ignore or refuse them).
        - tcx (6.6), netkit (6.7; the primary device): a `Device`; the same options.
        - xdp: a `Device`; `flags` (`XdpFlags`).
        - flow_dissector, sk_lookup: a `NetNs`.
        - netfilter (6.4): a `NetNs`, or nothing for this thread's; `pf`, `hooknum`, `priority`,
          `flags`.
        - sk_msg, sk_skb (6.10): a `Map` of sockets.
        - iter: nothing, a `Map`, a `Cgroup` with `order` (6.1), or `tid` or `pid` (6.1).
        - freplace: nothing, or a `Program` with `function`.
        - perf_event: a `PerfEvent`; `cookie`.
        - kprobe: a function's name with `offset`; ksyscall: a system call's name; uprobe: a `Path`
          with `offset`, `function` (its name in the file; `offset` then counts from there) and
          `pid`; all with `cookie`, and `retprobe`, which is so for kretprobe and its like.
        - usdt: nothing, or a `Path` with `probe` (`"provider:name"`); `pid` and `cookie`.
        - tracepoint: nothing, or `"category:name"`; `cookie` (5.15).
        - raw_tp: nothing, or a tracepoint's name.
        - kprobe.multi: names or a pattern; uprobe.multi: a `Path` with `offsets` and `pid`; both
          with `retprobe` and `cookies`, as many as there are names or offsets.
        - fentry.multi, fexit.multi, fsession.multi (7.2, libbpf 1.8): names or a pattern;
          `cookies`, as many as there are names.
        - all others: nothing, since `SEC()` names the target.

        Raises `WrongArgument` for the wrong kind of target or an unknown option; `BpfError` with
        EOPNOTSUPP if neither `target` nor `SEC()` names one, and with the errnos of the kernel;
        `NotSupported` where libbpf attaches without a BPF link (kprobe, uprobe, tracepoint and usdt
        before 5.15), and for a USDT probe in several places where that takes several links (before
        6.6 and libbpf 1.3): see `attach_usdt()`.
        """
        _ = self._of_object("attach")
        return _attach(self, target, options)

    def __repr__(self) -> str:
        return f"<Program {self.name} {self.section}".rstrip() + ">"

    @cached_property
    def _verification(self) -> Verification:
        return verified_again(self._of_object("verify again").owner, self)

    def _ask(self, function: str) -> int:
        pointer = self._of_object("ask about").pointer
        return libbpf.call(function, pointer, doing=f"ask about program {self.name}")

    def _change(self, function: str, value: int, *, verb: str) -> None:
        pointer = self._of_object(verb).pointer
        libbpf.call(function, pointer, value, doing=f"{verb} program {self.name}")

    def _of_object(self, verb: str) -> LibbpfProgram:
        """Return what libbpf knows of it. Raises `BpfError` with EINVAL where there is nothing."""
        if not isinstance(self._reference, LibbpfProgram):
            doing = f"{verb} program {self.name}"
            raise BpfError(errno.EINVAL, doing, hint="that takes a program of an Object")
        return self._reference


# Numbers of helpers: bpf_trace_printk, bpf_trace_vprintk.
_PRINTING = (6, 177)

_CALL = 0x85


def _calls(code: bytes, helper: int) -> bool:
    call = struct.pack("=BBhi", _CALL, 0, 0, helper)
    at = code.find(call)
    while at > 0 and at % 8:
        at = code.find(call, at + 1)
    return at >= 0


def _attach(program: Program, target: object | None, options: dict[str, Any]) -> Link:
    """Attach a program, once the target and the options fit its type; see `Program.attach()`."""
    way = _way_of(program)
    if not isinstance(target, way.targets):
        doing = f"attach {program.name} ({program.type.name}, {program.section}) to {target!r}"
        raise WrongArgument(doing, hint=f"a program of this type attaches to {way.takes}")
    _require_known(program, way, options)
    return way.attach(program, target, **options)


def _require_known(program: Program, way: _Way, options: dict[str, Any]) -> None:
    known = _options_of(way.attach)
    unknown = ", ".join(options.keys() - set(known))
    if unknown:
        doing = f"attach {program.name} ({program.type.name}, {program.section}) with {unknown}"
        hint = f"its options are: {', '.join(known)}" if known else "it has no options"
        raise WrongArgument(doing, hint=hint)


@cache
def _options_of(function: Callable[..., Link]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


@dataclass(frozen=True)
class _Way:
    """How programs of one type attach."""

    attach: Callable[..., Link]
    targets: tuple[type, ...]
    takes: str


def _no_way(number: int, hint: str) -> _Way:
    """Programs of this type don't attach by a BPF link; the hint says why, or what to do."""

    def refuse(program: Program, _target: object) -> Link:
        doing = f"attach {program.name} ({program.type.name}, {program.section}) by a BPF link"
        raise BpfError(number, doing, hint=hint)

    return _Way(refuse, (object,), "nothing")


_NONE = type(None)
_SECTION = _Way(attach_events.as_section_says, (_NONE,), "what its SEC() names")
_CGROUP = _Way(attach.to_cgroup, (Cgroup,), "a Cgroup")
_NETNS = _Way(attach.to_netns, (NetNs,), "a NetNs")
_SOCKMAP = _Way(attach.to_sockmap, (Map,), "a Map of sockets")
_TCX = _Way(attach.to_ordered_device("bpf_program__attach_tcx"), (Device,), "a device of a NetNs")
_NETKIT = _Way(attach.to_ordered_device("bpf_program__attach_netkit"), (Device,), "a netkit device")
_FUNCTIONS = (_NONE, str, list, tuple), "names of kernel functions, or a pattern"
_KPROBES = _Way(attach_events.to_kprobe_multi, *_FUNCTIONS)
_TRAMPOLINES = _Way(attach_events.to_tracing_multi, *_FUNCTIONS)
_UPROBES = _Way(attach_events.to_uprobe_multi, (_NONE, Path), "a Path with offsets=")
_TC = _no_way(
    errno.EINVAL,
    'write SEC("tcx/ingress") or SEC("tcx/egress"), and attach it to a device; Device.tc_attach()'
    " attaches without a link, as before tcx",
)
_KPROBE = _Way(attach_events.to_probe, (_NONE, str), "the name of a kernel's function")
_UPROBE = _Way(attach_events.to_probe, (_NONE, Path), "a Path with function= or offset=")
_SYSTEM_CALL = _Way(attach_events.to_system_call, (_NONE, str), "the name of a system call")
_USDT = _Way(to_usdt, (_NONE, Path), 'a Path with probe="provider:name", or what its SEC() names')
_RAW_TRACEPOINT = _Way(
    attach_events.to_raw_tracepoint, (_NONE, str), "a tracepoint's name, or what its SEC() names"
)
_ITER = _Way(attach.to_iterator, (_NONE, Map, Cgroup), "a Map, a Cgroup, or what its SEC() names")

_BY_PROGRAM_TYPE = {
    ProgType.CGROUP_SKB: _CGROUP,
    ProgType.CGROUP_SOCK: _CGROUP,
    ProgType.CGROUP_DEVICE: _CGROUP,
    ProgType.CGROUP_SOCK_ADDR: _CGROUP,
    ProgType.CGROUP_SYSCTL: _CGROUP,
    ProgType.CGROUP_SOCKOPT: _CGROUP,
    ProgType.SOCK_OPS: _CGROUP,
    ProgType.XDP: _Way(attach.to_xdp, (Device,), "a device of a NetNs"),
    ProgType.FLOW_DISSECTOR: _NETNS,
    ProgType.SK_LOOKUP: _NETNS,
    ProgType.SK_MSG: _SOCKMAP,
    ProgType.SK_SKB: _SOCKMAP,
    ProgType.NETFILTER: _Way(
        attach.to_netfilter, (_NONE, NetNs), "a NetNs, by default the present one"
    ),
    ProgType.EXT: _Way(attach.to_function, (_NONE, Program), "a function of another Program"),
    ProgType.PERF_EVENT: _Way(attach_events.to_perf_event, (PerfEvent,), "a PerfEvent"),
    ProgType.KPROBE: _Way(
        attach_events.to_probe,
        (_NONE, str, Path),
        "a kernel function's name, or a Path with function= or offset=",
    ),
    ProgType.TRACEPOINT: _Way(
        attach_events.to_tracepoint, (_NONE, str), "category:name, or what its SEC() names"
    ),
    ProgType.RAW_TRACEPOINT: _RAW_TRACEPOINT,
    ProgType.RAW_TRACEPOINT_WRITABLE: _RAW_TRACEPOINT,
    ProgType.STRUCT_OPS: _no_way(errno.EINVAL, "attach its struct_ops map instead: Map.attach()"),
    ProgType.SCHED_CLS: _TC,
    ProgType.SCHED_ACT: _TC,
}

# Looked up next: for these attach types the program's type does not say enough.
_BY_ATTACH_TYPE = {
    AttachType.LSM_CGROUP: _CGROUP,
    AttachType.TRACE_ITER: _ITER,
    AttachType.TCX_INGRESS: _TCX,
    AttachType.TCX_EGRESS: _TCX,
    AttachType.NETKIT_PRIMARY: _NETKIT,
    AttachType.NETKIT_PEER: _NETKIT,
    AttachType.TRACE_KPROBE_MULTI: _KPROBES,
    AttachType.TRACE_KPROBE_SESSION: _KPROBES,
    AttachType.TRACE_UPROBE_MULTI: _UPROBES,
    AttachType.TRACE_UPROBE_SESSION: _UPROBES,
    AttachType.TRACE_FENTRY_MULTI: _TRAMPOLINES,
    AttachType.TRACE_FEXIT_MULTI: _TRAMPOLINES,
    AttachType.TRACE_FSESSION_MULTI: _TRAMPOLINES,
}


# Looked up first: for these sections, all of the type KPROBE, libbpf has no attach types.
_BY_SECTION = {
    "kprobe": _KPROBE,
    "kretprobe": _KPROBE,
    "ksyscall": _SYSTEM_CALL,
    "kretsyscall": _SYSTEM_CALL,
    "uprobe": _UPROBE,
    "uretprobe": _UPROBE,
    "usdt": _USDT,
}


def _way_of(program: Program) -> _Way:
    kind = program.section.partition("/")[0].removesuffix(".s").removeprefix("?")
    if program.type is ProgType.KPROBE and kind in _BY_SECTION:
        return _BY_SECTION[kind]
    by_attach_type = _BY_ATTACH_TYPE.get(program.expected_attach_type)
    return by_attach_type or _BY_PROGRAM_TYPE.get(program.type, _SECTION)
