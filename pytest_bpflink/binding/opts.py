"""libbpf's `*_opts` structures: arguments that later releases extend.

libbpf takes a structure that is shorter than its own, and a longer one with zeros in the rest.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any


class Options(ctypes.Structure):
    """Base of libbpf's `*_opts` structures; the first field, `sz`, is the size of the structure."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(sz=ctypes.sizeof(self), **fields)


class ObjectOpenOptions(Options):
    """`struct bpf_object_open_opts`, as far as libbpf 1.0 has it."""

    _fields_ = (
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("attach_prog_fd", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
    )


class LinkUpdateOptions(Options):
    """`struct bpf_link_update_opts`."""

    _fields_ = (("sz", c_size_t), ("flags", c_uint32), ("old_prog_fd", c_uint32))


class LinkCreateOptions(Options):
    """`struct bpf_link_create_opts`, as far as all link types share it."""

    _fields_ = (
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    )


class CgroupLinkOptions(Options):
    """`struct bpf_link_create_opts` for a cgroup; the same for tcx and netkit (libbpf 1.3)."""

    _fields_ = (
        *LinkCreateOptions._fields_,
        ("relative_fd", c_uint32),
        ("relative_id", c_uint32),
        ("expected_revision", c_uint64),
    )


class NetfilterLinkOptions(Options):
    """`struct bpf_link_create_opts` for netfilter (libbpf 1.3)."""

    _fields_ = (
        *LinkCreateOptions._fields_,
        ("pf", c_uint32),
        ("hooknum", c_uint32),
        ("priority", c_int32),
        ("netfilter_flags", c_uint32),
    )


class ProgLoadOptions(Options):
    """The beginning of `struct bpf_prog_load_opts`."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_uint32),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_void_p),
    )


class TestRunOptions(Options):
    """The beginning of `struct bpf_test_run_opts`; `batch_size` came with libbpf 0.8."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_char_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class MapCreateOptions(Options):
    """The beginning of `struct bpf_map_create_opts`."""

    _fields_ = (
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
    )


class ObjGetOptions(Options):
    """`struct bpf_obj_get_opts` without its last field, `path_fd` (libbpf 1.3)."""

    _fields_ = (("sz", c_size_t), ("file_flags", c_uint32))


class OrderOptions(Options):
    """`struct bpf_cgroup_opts` (1.6), `bpf_tcx_opts` and `bpf_netkit_opts` (1.3)."""

    _fields_ = (
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("relative_fd", c_uint32),
        ("relative_id", c_uint32),
        ("expected_revision", c_uint64),
    )


class NetfilterOptions(Options):
    """`struct bpf_netfilter_opts` (libbpf 1.3)."""

    _fields_ = (
        ("sz", c_size_t),
        ("pf", c_uint32),
        ("hooknum", c_uint32),
        ("priority", c_int32),
        ("flags", c_uint32),
    )


class IterOptions(Options):
    """`struct bpf_iter_attach_opts`."""

    _fields_ = (("sz", c_size_t), ("link_info", c_void_p), ("link_info_len", c_uint32))


class PerfEventLinkOptions(Options):
    """`struct bpf_link_create_opts` for a perf event."""

    _fields_ = (*LinkCreateOptions._fields_, ("bpf_cookie", c_uint64))


class KprobeMultiLinkOptions(Options):
    """`struct bpf_link_create_opts` for kprobe.multi (libbpf 0.8)."""

    _fields_ = (
        *LinkCreateOptions._fields_,
        ("kprobe_flags", c_uint32),
        ("cnt", c_uint32),
        ("syms", c_void_p),
        ("addrs", c_void_p),
        ("cookies", c_void_p),
    )


class UprobeMultiLinkOptions(Options):
    """`struct bpf_link_create_opts` for uprobe.multi (libbpf 1.3)."""

    _fields_ = (
        *LinkCreateOptions._fields_,
        ("uprobe_flags", c_uint32),
        ("cnt", c_uint32),
        ("path", c_char_p),
        ("offsets", c_void_p),
        ("ref_ctr_offsets", c_void_p),
        ("cookies", c_void_p),
        ("pid", c_uint32),
    )


class TracingMultiLinkOptions(Options):
    """`struct bpf_link_create_opts` for fentry.multi and its like (libbpf 1.8)."""

    _fields_ = (
        *LinkCreateOptions._fields_,
        ("ids", c_void_p),
        ("cookies", c_void_p),
        ("cnt", c_uint32),
    )


class KprobeOptions(Options):
    """`struct bpf_kprobe_opts`."""

    _fields_ = (
        ("sz", c_size_t),
        ("bpf_cookie", c_uint64),
        ("offset", c_size_t),
        ("retprobe", c_bool),
    )


class KsyscallOptions(Options):
    """`struct bpf_ksyscall_opts` (libbpf 1.0)."""

    _fields_ = (("sz", c_size_t), ("bpf_cookie", c_uint64), ("retprobe", c_bool))


class UprobeOptions(Options):
    """`struct bpf_uprobe_opts`."""

    _fields_ = (
        ("sz", c_size_t),
        ("ref_ctr_offset", c_size_t),
        ("bpf_cookie", c_uint64),
        ("retprobe", c_bool),
        ("func_name", c_char_p),
    )


class TcHook(Options):
    """`struct bpf_tc_hook`, as far as libbpf 0.4 has it."""

    _fields_ = (
        ("sz", c_size_t),
        ("ifindex", c_int),
        ("attach_point", c_uint32),
        ("parent", c_uint32),
    )


class TcOptions(Options):
    """`struct bpf_tc_opts` (libbpf 0.4)."""

    _fields_ = (
        ("sz", c_size_t),
        ("prog_fd", c_int),
        ("flags", c_uint32),
        ("prog_id", c_uint32),
        ("handle", c_uint32),
        ("priority", c_uint32),
    )


class UsdtOptions(Options):
    """`struct bpf_usdt_opts` (libbpf 0.8)."""

    _fields_ = (("sz", c_size_t), ("usdt_cookie", c_uint64))


class TracepointOptions(Options):
    """`struct bpf_tracepoint_opts`."""

    _fields_ = (("sz", c_size_t), ("bpf_cookie", c_uint64))


class KprobeMultiOptions(Options):
    """`struct bpf_kprobe_multi_opts`."""

    _fields_ = (
        ("sz", c_size_t),
        ("syms", c_void_p),
        ("addrs", c_void_p),
        ("cookies", c_void_p),
        ("cnt", c_size_t),
        ("retprobe", c_bool),
    )


class TracingMultiOptions(Options):
    """`struct bpf_tracing_multi_opts` (libbpf 1.8)."""

    _fields_ = (("sz", c_size_t), ("ids", c_void_p), ("cookies", c_void_p), ("cnt", c_size_t))


class UprobeMultiOptions(Options):
    """`struct bpf_uprobe_multi_opts` (libbpf 1.3)."""

    _fields_ = (
        ("sz", c_size_t),
        ("syms", c_void_p),
        ("offsets", c_void_p),
        ("ref_ctr_offsets", c_void_p),
        ("cookies", c_void_p),
        ("cnt", c_size_t),
        ("retprobe", c_bool),
    )
