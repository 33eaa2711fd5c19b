"""`BPF_PROG_LOAD` by hand: programs with arguments that `Object.load` has not."""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from pytest_bpflink.binding.bpf_syscall import bpf

if TYPE_CHECKING:
    from pytest_bpflink import AttachType, Device, ProgType

_PROG_LOAD = 5
_DEV_BOUND_ONLY = 1 << 6  # BPF_F_XDP_DEV_BOUND_ONLY
_TOKEN_FD = 1 << 16  # BPF_F_TOKEN_FD


class _ProgLoad(ctypes.Structure):
    """The part of `union bpf_attr` for PROG_LOAD, as far as Linux 6.9 has it."""

    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        # From log_level to kern_version, which are not used.
        ("before_flags", ctypes.c_uint32 * 5),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        # From prog_btf_fd to log_true_size, which are not used.
        ("before_token", ctypes.c_uint32 * 18),
        ("prog_token_fd", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


def prog_load(kind: ProgType, attach_type: AttachType, returns: int, *, token: int = 0) -> int:
    """Load a program that returns a number, by the right of a token if there is one."""
    flags = _TOKEN_FD if token else 0
    return _load(kind, attach_type, returns, prog_flags=flags, prog_token_fd=token)


def prog_load_for(device: Device, kind: ProgType, attach_type: AttachType, returns: int) -> int:
    """Load a program that may be attached to one device alone (6.3)."""
    with device.netns.entered():
        return _load(
            kind, attach_type, returns, prog_flags=_DEV_BOUND_ONLY, prog_ifindex=device.ifindex
        )


def _load(kind: ProgType, attach_type: AttachType, returns: int, **fields: int) -> int:
    code = struct.pack("=BBhi", 0xB7, 0, 0, returns) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    insns, gpl = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attributes = _ProgLoad(
        prog_type=kind,
        insn_cnt=2,
        insns=ctypes.addressof(insns),
        license=ctypes.addressof(gpl),
        prog_name=b"loaded_by_hand",
        expected_attach_type=attach_type,
        **fields,
    )
    return bpf(_PROG_LOAD, attributes, doing=f"load a program of type {kind.name}")
