"""Runs of a program by itself, on a packet or a context of the test: `BPF_PROG_TEST_RUN`."""

from __future__ import annotations

import ctypes
import errno
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.opts import TestRunOptions
from pytest_bpflink.binding.uapi import ProgType, TcAction, Verdict, XdpAction
from pytest_bpflink.errors import BpfError, NotSupported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from enum import IntEnum
    from typing import SupportsBytes

    from typing_extensions import Buffer

    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.bpf.handles import LoadedProgramHandle

# Programs may add to a packet; the kernel's packets are not longer than this.
_ROOM = 65536

_ENOTSUPP = 524


class _Kind(NamedTuple):
    """How programs of a type run by themselves."""

    since: str
    has_data: bool = True
    results: type[IntEnum] | None = None


_KINDS = {
    ProgType.SOCKET_FILTER: _Kind("4.12"),
    ProgType.SCHED_CLS: _Kind("4.12", results=TcAction),
    ProgType.SCHED_ACT: _Kind("4.12", results=TcAction),
    ProgType.XDP: _Kind("4.12", results=XdpAction),
    ProgType.CGROUP_SKB: _Kind("4.12"),
    ProgType.LWT_IN: _Kind("4.12"),
    ProgType.LWT_OUT: _Kind("4.12"),
    ProgType.LWT_XMIT: _Kind("4.12"),
    ProgType.LWT_SEG6LOCAL: _Kind("4.18"),
    ProgType.FLOW_DISSECTOR: _Kind("5.0"),
    ProgType.TRACING: _Kind("5.7", has_data=False),
    ProgType.RAW_TRACEPOINT: _Kind("5.10", has_data=False),
    ProgType.SK_LOOKUP: _Kind("5.13", has_data=False, results=Verdict),
    ProgType.SYSCALL: _Kind("5.14", has_data=False),
    ProgType.STRUCT_OPS: _Kind("5.16", has_data=False),
    ProgType.NETFILTER: _Kind("6.4", results=Verdict),
}


class RunResult:
    """What a program did when it ran by itself."""

    def __init__(
        self,
        *,
        retval: int,
        data: bytes,
        duration: int,
        raw_ctx: bytes,
        types: Btf | None,
        ctx_type: int,
    ) -> None:
        self.retval = retval
        """What the program returned last: an `XdpAction`, a `TcAction` or a `Verdict`, where its
        type has these; else a signed number of 32 bits."""
        self.data = data
        """The packet as the program left it; of a flow dissector the bytes of `bpf_flow_keys`."""
        self.duration = duration
        """Nanoseconds that a run took on average."""
        self.raw_ctx = raw_ctx
        """The bytes of the context as the program left it; empty unless `ctx` was given."""
        self._types = types
        self._ctx_type = ctx_type

    @cached_property
    def ctx(self) -> Any:
        """The context as the program left it, typed through BTF; None unless `ctx` was given."""
        if not self.raw_ctx or self._types is None:
            return self.raw_ctx or None
        return self._types.decode(self._ctx_type, self.raw_ctx)

    def __repr__(self) -> str:
        return f"<RunResult {self.retval!r}, {len(self.data)} bytes>"


class TestRun:
    """Runs one program by itself; keeps what its type decides."""

    __test__ = False  # it is no class of tests

    def __init__(self, program: LoadedProgramHandle, types: Btf | None) -> None:
        self._program = program
        self._doing = f"run program {program.name}"
        kind = _KINDS.get(program.type)
        if kind is None:
            refusal = NotSupported(self._doing, since="", here="")
            refusal.hint = (
                f"the kernel can't run programs of type {program.type.name} by themselves"
            )
            raise refusal
        self._kind = kind
        self._types = types
        self._ctx_type = types.first_argument(program.name) if types else 0

    def run(
        self,
        data: Buffer | SupportsBytes | None,
        ctx: Mapping[str, Any] | bytes | None,
        *,
        repeat: int,
        **numbers: int,
    ) -> RunResult:
        """Run the program; see `Program.run`."""
        packet = self._bytes_of(data)
        context = self._context(ctx, len(packet))
        into = ctypes.create_string_buffer(context, len(context)) if context else None
        # A syscall program changes the context where it is; the others' changes are copied.
        in_place = self._program.type is ProgType.SYSCALL
        takes_out = context and not in_place and self._program.type is not ProgType.RAW_TRACEPOINT
        out = ctypes.create_string_buffer(len(context)) if takes_out else None
        options = TestRunOptions(
            data_in=packet or None,
            data_size_in=len(packet),
            ctx_in=ctypes.cast(into, ctypes.c_void_p) if into else None,
            ctx_size_in=len(context),
            ctx_out=ctypes.cast(out, ctypes.c_void_p) if out else None,
            ctx_size_out=len(context) if out else 0,
            # Zero is once, too; types without packets refuse any number.
            repeat=0 if repeat == 1 else repeat,
            **numbers,
        )
        after = ctypes.create_string_buffer(_ROOM + len(packet)) if packet else None
        if after:
            options.data_out = ctypes.addressof(after)
            options.data_size_out = len(after)
        self._call(options)
        left = out or (into if in_place else None)
        return RunResult(
            retval=self._result(options.retval),
            data=ctypes.string_at(after, options.data_size_out) if after else b"",
            duration=options.duration,
            raw_ctx=left.raw if left else b"",
            types=self._types if self._ctx_type else None,
            ctx_type=self._ctx_type,
        )

    def _call(self, options: TestRunOptions) -> None:
        try:
            libbpf.call(
                "bpf_prog_test_run_opts",
                self._program.fd,
                ctypes.byref(options),
                doing=self._doing,
            )
        except BpfError as error:
            if error.errno == _ENOTSUPP:
                since = f"Linux {self._kind.since}"
                raise NotSupported(self._doing, since=since, here="an older one") from error
            if error.errno == errno.EINVAL and self._kind.has_data and options.data_size_in < 14:
                error.hint = "it takes a packet with an Ethernet header, of 14 bytes or more: data="
            raise

    def _bytes_of(self, data: Buffer | SupportsBytes | None) -> bytes:
        if isinstance(data, (int, str)):  # of a number bytes() makes as many zeros
            raise TypeError(f"{self._doing}: data is bytes, or a packet that gives them")
        return b"" if data is None else bytes(data)

    def _context(self, ctx: Mapping[str, Any] | bytes | None, length: int) -> bytes:
        if ctx is None or isinstance(ctx, bytes):
            return ctx or b""
        if self._types is None or not self._ctx_type:
            raise TypeError(
                f"{self._doing}: ctx must be bytes, as the object's BTF has no type for it"
            )
        if self._program.type is ProgType.XDP:
            # Else the kernel refuses: the packet ends where the context says.
            ctx = {"data_end": length, **ctx}
        size = self._types.size(self._ctx_type)
        return self._types.encode(self._ctx_type, ctx, bytes(size))

    def _result(self, retval: int) -> int:
        signed = retval - (1 << 32) if retval >> 31 else retval
        return self._kind.results(signed) if self._kind.results else signed
