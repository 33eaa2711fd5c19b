"""Links several BPF objects to one, by libbpf's static linker (libbpf 0.4)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.building.clang import memory_file
from pytest_bpflink.errors import BpfError, is_bpf_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def link(objects: Sequence[Path]) -> bytes:
    """Return the object that is linked of OBJECTS.

    Raises `BpfError`, with libbpf's log: for example where two objects define one function.
    """
    __tracebackhide__ = is_bpf_error
    names = ", ".join(each.name for each in objects)
    doing = f"link {names}"
    with memory_file() as linked:
        linker = libbpf.call("bpf_linker__new", os.fsencode(linked), None, doing=doing)
        try:
            for each in objects:
                _add(linker, each, f"{doing}: add {each.name}")
            libbpf.call("bpf_linker__finalize", linker, doing=doing)
        finally:
            libbpf.call("bpf_linker__free", linker, doing=doing)
        return linked.read_bytes()


def _add(linker: int, file: Path, doing: str) -> None:
    __tracebackhide__ = is_bpf_error
    try:
        libbpf.call("bpf_linker__add_file", linker, os.fsencode(file), None, doing=doing)
    except BpfError as error:
        if error.errno == errno.EOPNOTSUPP:
            # Since "libbpf: Support linking bpf objects of either endianness" (2024).
            error.hint = "the host's libbpf links objects of its own byte order only"
        raise
