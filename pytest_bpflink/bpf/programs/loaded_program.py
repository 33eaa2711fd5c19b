"""Programs that the kernel has: what they cost, their maps, and running them."""

from __future__ import annotations

import errno
import os
import socket
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.bpf_syscall import read_stream
from pytest_bpflink.binding.uapi import BpfProgInfo, BpfStream, ProgType
from pytest_bpflink.bpf.descriptor import Handle, open_pin
from pytest_bpflink.bpf.maps.program_maps import ProgramMaps
from pytest_bpflink.bpf.programs.counting import Runs
from pytest_bpflink.bpf.programs.references import ProgramDescriptor
from pytest_bpflink.bpf.programs.runs import TestRun
from pytest_bpflink.errors import BpfError, NotSupported, WrongArgument
from pytest_bpflink.introspection.ids import open_by_id

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import SupportsBytes

    from typing_extensions import Buffer

    from pytest_bpflink.bpf.programs.references import ProgramReference
    from pytest_bpflink.bpf.programs.runs import RunResult

_SO_ATTACH_BPF = 50


class LoadedProgram(Handle):
    """A program that the kernel has.

    Made by `Program.open()` and `Program.by_id()`, and then released by `close()` or the end of a
    `with` block; borrowed from a `Link` by `link.program`; or, as a `Program`, borrowed from an
    `Object`.
    """

    _reference: ProgramReference

    def __init__(self, reference: ProgramReference, *, is_lent: bool = False) -> None:
        super().__init__(reference, is_lent=is_lent)
        self.name = reference.name
        """The name of the program's function."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a pinned program.

        Raises `BpfError`: ENOENT where there is no pin, EINVAL where a link or a map is pinned,
        EACCES where the file's mode refuses reading and writing.
        """
        return cls(ProgramDescriptor(open_pin("program", path)))

    @classmethod
    def by_id(cls, program_id: int) -> Self:
        """Open a program by its id (4.13; needs CAP_SYS_ADMIN).

        Raises `BpfError`: ENOENT for the id of a program that is gone, EPERM without the privilege.
        """
        return cls(ProgramDescriptor(open_by_id("program", program_id)))

    @property
    def type(self) -> ProgType:
        """The program's type."""
        return self._reference.type

    @property
    def maps(self) -> ProgramMaps:
        """The maps that the program uses, by name; borrowed, they are closed with the program.

        `program.maps[".bss"]["counter"]` is a global variable. Of a program that no `Object` has
        this needs CAP_SYS_ADMIN. Raises `BpfError`.
        """
        return ProgramMaps(self.name, self._reference.maps)

    @property
    def id(self) -> int:
        """The kernel's id of the program."""
        return int(self._info().id)

    @property
    def verified_insns(self) -> int:
        """How many instructions the verifier went through (5.16); the kernel refuses a million.

        Raises `NotSupported`.
        """
        verified: int = self._info().verified_insns
        if not verified:
            release = f"Linux {os.uname().release}"
            raise NotSupported("count verified instructions", since="Linux 5.16", here=release)
        return verified

    @property
    def jited_size(self) -> int:
        """Bytes of machine code of the loaded program; 0 where it is interpreted."""
        return int(self._info().jited_prog_len)

    def counting(self) -> Runs:
        """Count runs of the loaded program: `with program.counting() as runs` (5.8).

        The kernel counts for all programs while a `with` block of any process wants it, so runs
        take a little longer then. Raises `BpfError`.
        """
        return Runs(self)

    def read_stream(self, stream: BpfStream = BpfStream.STDOUT) -> str:
        """Take what the program wrote by `bpf_stream_printk`, or the kernel about it (6.17).

        The kernel writes to `STDERR` where it ends a program, as one that loops too long, and where
        an access to an arena fails. Raises `NotSupported`.
        """
        doing = f"read {stream.name} of program {self.name}"
        return read_stream(self.fd, stream, doing=doing).decode(errors="replace")

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pin the program in a BPF FS; the caller removes the file."""
        self._reference.pin(path, f"pin program {self.name} at {Path(path)}")

    def run(
        self,
        data: Buffer | SupportsBytes | None = None,
        *,
        ctx: Mapping[str, Any] | bytes | None = None,
        repeat: int = 1,
        flags: int = 0,
        cpu: int = 0,
        batch_size: int = 0,
    ) -> RunResult:
        """Run the loaded program by itself, attached to nothing: `BPF_PROG_TEST_RUN`.

        `data` is a packet: bytes, or anything that gives them, such as a packet of scapy. `ctx` is
        the program's context: its fields by name, others are zero; or its bytes. An XDP program's
        `data_end` is the packet's length unless it is given. With `ctx={}` the result has the
        context that the program left, too.

        Programs on packets run since Linux 4.12, and take a `ctx` since 5.2 (5.15 for XDP);
        flow_dissector 5.0, fentry and its like 5.7 (those of the kernel's test functions),
        raw_tp 5.10, sk_lookup 5.13, syscall 5.14, struct_ops 5.16 (`bpf_dummy_ops`), netfilter 6.4.
        `flags` are `RunFlags`; `cpu` is for `ON_CPU`, `batch_size` for `XDP_LIVE_FRAMES`.

        Raises `NotSupported` for other types, and on an older kernel; `BpfError`: EINVAL for a
        packet, a context or flags that the kernel refuses; `TypeError` for a field that there is
        not.
        """
        return self._test_run.run(
            data, ctx, repeat=repeat, flags=flags, cpu=cpu, batch_size=batch_size
        )

    def attach_socket(self, sock: socket.socket) -> None:
        """Have a socket filter decide which packets a socket receives (`SO_ATTACH_BPF`, 3.19).

        There is no link: the socket has the program until it is closed, or gets another one. Raises
        `BpfError`: EINVAL for a program of another type, and for what is no socket.
        """
        doing = f"attach {self.name} ({self.type.name}) to a socket"
        if not hasattr(sock, "setsockopt"):
            raise WrongArgument(doing, hint=f"it takes a socket, not {sock!r}")
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_BPF, self.fd)
        except OSError as error:
            hint = 'it takes a program in SEC("socket")' if error.errno == errno.EINVAL else ""
            raise BpfError(error.errno or 0, doing, hint=hint) from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @cached_property
    def _test_run(self) -> TestRun:
        return TestRun(self, self._reference.btf)

    def _info(self) -> BpfProgInfo:
        return libbpf.read_info(self.fd, BpfProgInfo, doing=f"ask about program {self.name}")
