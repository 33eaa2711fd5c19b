"""The probe of struct_ops links: a congestion control for TCP, which one connection selects."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf, opts
from pytest_bpflink.binding.btf import Kind
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.binding.uapi import AttachType, LinkType, MapType, ProgType
from pytest_bpflink.features.probes.program import linked, loaded, new_map, require_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.features.probes.program import Loaded

_STRUCT = "tcp_congestion_ops"
_VALUE = f"bpf_struct_ops_{_STRUCT}"  # the map's value, around the struct
_FUNCTIONS = ("init", "ssthresh", "cong_avoid", "undo_cwnd")  # the last three are mandatory
_BY_LINK = 1 << 13  # BPF_F_LINK


def link() -> None:
    """Probe a map of functions that a link registers."""
    types = vmlinux()
    # Two processes may probe at the same time.
    name = f"probe{os.getpid()}".encode()
    with contextlib.ExitStack() as undo:
        programs = {each: undo.enter_context(_function(each)) for each in _FUNCTIONS}
        options = opts.MapCreateOptions(
            btf_fd=undo.enter_context(_least_btf()),
            btf_vmlinux_value_type_id=types.find(_VALUE, Kind.STRUCT),
            map_flags=_BY_LINK,
        )
        size = types.size(_VALUE)
        functions = undo.enter_context(new_map(MapType.STRUCT_OPS, value=size, options=options))
        _fill(functions, programs, name)
        made = undo.enter_context(linked(functions, 0, AttachType.STRUCT_OPS))
        require_run(programs["init"], made, LinkType.STRUCT_OPS, lambda: _choose(name))


@contextlib.contextmanager
def _least_btf() -> Iterator[int]:
    """Load BTF with the type `int`: a struct_ops map needs BTF of a program beside the kernel's."""
    text = b"\0int\0"
    integer = struct.pack("=IIII", 1, Kind.INT << 24, 4, 32)
    header = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(integer), len(integer), len(text))
    whole = header + integer + text
    fd = libbpf.call("bpf_btf_load", whole, len(whole), None, doing="load BTF")
    try:
        yield fd
    finally:
        os.close(fd)


def _function(name: str) -> contextlib.AbstractContextManager[Loaded]:
    """Load the program of a member of the struct."""
    types = vmlinux()
    index, _ = types.members(_STRUCT)[name]
    return loaded(ProgType.STRUCT_OPS, index, btf_id=types.find(_STRUCT, Kind.STRUCT))


def _fill(functions: int, programs: dict[str, Loaded], name: bytes) -> None:
    types = vmlinux()
    members, (_, start) = types.members(_STRUCT), types.members(_VALUE)["data"]
    value = bytearray(types.size(_VALUE))
    filling = {each: program.fd.to_bytes(8, sys.byteorder) for each, program in programs.items()}
    for member, content in (filling | {"name": name}).items():
        at = start + members[member][1]
        value[at : at + len(content)] = content
    key, image = ctypes.c_uint32(0), (ctypes.c_char * len(value)).from_buffer(value)
    doing = f"fill a map of {_STRUCT}"
    libbpf.call("bpf_map_update_elem", functions, ctypes.byref(key), image, 0, doing=doing)


def _choose(name: bytes) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
