"""Writes the types of a kernel as C, for `#include "vmlinux.h"`."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_void_p
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.errors import BpfError
from pytest_bpflink.system.libc import libc

if TYPE_CHECKING:
    from pathlib import Path


def dump(header: Path, btf_file: Path | None = None) -> None:
    """Write the types of a kernel's BTF to a file, by default the running kernel's.

    The BTF may be of another byte order. Raises BpfError.
    """
    doing = "make vmlinux.h of the kernel's BTF"
    c = libc()
    c.fopen.restype = c_void_p
    # vfprintf has the signature of btf_dump_printf_fn_t, with the stream as its context, which
    # saves a call of Python for each of a million small prints.
    print_function = ctypes.cast(c.vfprintf, c_void_p)
    if btf_file:
        btf = libbpf.call("btf__parse_raw", os.fsencode(btf_file), doing=doing)
    else:
        btf = libbpf.call("btf__load_vmlinux_btf", doing=doing)
    stream = c_void_p(c.fopen(os.fsencode(header), b"w"))
    if not stream:
        raise BpfError(ctypes.get_errno(), f"{doing}: open {header}")
    dump = libbpf.call("btf_dump__new", btf, print_function, stream, None, doing=doing)
    guard = b"__VMLINUX_H__"
    access = b"attribute push(__attribute__((preserve_access_index)), apply_to = record)"
    c.fprintf(stream, b"#ifndef %s\n#define %s\n", guard, guard)
    c.fprintf(stream, b"#ifndef BPF_NO_PRESERVE_ACCESS_INDEX\n#pragma clang %s\n#endif\n", access)
    for type_id in range(1, libbpf.call("btf__type_cnt", btf, doing=doing)):
        libbpf.call("btf_dump__dump_type", dump, type_id, doing=doing)
    c.fprintf(stream, b"#ifndef BPF_NO_PRESERVE_ACCESS_INDEX\n")
    c.fprintf(stream, b"#pragma clang attribute pop\n#endif\n#endif\n")
    if c.fclose(stream):
        raise BpfError(ctypes.get_errno(), f"{doing}: write {header}")
    libbpf.call("btf_dump__free", dump, doing=doing)
    libbpf.call("btf__free", btf, doing=doing)
