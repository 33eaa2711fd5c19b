"""libbpf.so.1 through ctypes: one table of prototypes, its log, and its errnos.

`call()` is the C API, with errors as exceptions; the modules of `bpf` know what the calls mean.
Only public symbols are used. A symbol that the loaded libbpf lacks raises `NotSupported` when it is
called, not at import.

The first call loads the library. Before it, `use()` can choose another one than the system's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_bpflink.errors import BpfError, NotSupported, VerifierError
from pytest_bpflink.system.libc import libc

if TYPE_CHECKING:
    from pathlib import Path

_Structure = TypeVar("_Structure", bound=ctypes.Structure)

SONAME = "libbpf.so.1"
"""The library that the dynamic linker looks up, unless `use()` names another."""

_int = (c_int,)
_pointer = (c_void_p,)

# name: (result, arguments, first libbpf release with the function). On failure an int result is
# negative and a pointer is null, and both set errno. Functions with other results can't fail.
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p), "0.0.6"),
    "bpf_object__load": (c_int, _pointer, "0.0.1"),
    "bpf_object__close": (None, _pointer, "0.0.1"),
    "bpf_object__btf": (c_void_p, _pointer, "0.0.3"),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p), "0.6"),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p), "0.7"),
    "bpf_program__name": (c_char_p, _pointer, "0.2"),
    "bpf_program__section_name": (c_char_p, _pointer, "0.2"),
    "bpf_program__fd": (c_int, _pointer, "0.0.1"),
    "bpf_program__type": (c_int, _pointer, "0.5"),
    "bpf_program__expected_attach_type": (c_int, _pointer, "0.5"),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool), "0.1"),
    "bpf_program__set_type": (c_int, (c_void_p, c_int), "0.0.1"),
    "bpf_program__set_expected_attach_type": (c_int, (c_void_p, c_int), "0.0.2"),
    "bpf_program__set_log_buf": (c_int, (c_void_p, c_void_p, c_size_t), "0.7"),
    "bpf_program__set_log_level": (c_int, (c_void_p, c_uint32), "0.7"),
    "bpf_program__set_attach_target": (c_int, (c_void_p, c_int, c_char_p), "0.0.8"),
    "bpf_program__insns": (c_void_p, _pointer, "0.6"),
    "bpf_program__insn_cnt": (c_size_t, _pointer, "0.6"),
    "bpf_program__pin": (c_int, (c_void_p, c_char_p), "0.0.1"),
    "bpf_program__attach": (c_void_p, _pointer, "0.0.4"),
    "bpf_program__attach_cgroup": (c_void_p, (c_void_p, c_int), "0.0.8"),
    "bpf_program__attach_cgroup_opts": (c_void_p, (c_void_p, c_int, c_void_p), "1.6"),
    "bpf_program__attach_freplace": (c_void_p, (c_void_p, c_int, c_char_p), "0.2"),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p), "0.0.9"),
    "bpf_program__attach_kprobe_multi_opts": (c_void_p, (c_void_p, c_char_p, c_void_p), "0.8"),
    "bpf_program__attach_kprobe_opts": (c_void_p, (c_void_p, c_char_p, c_void_p), "0.5"),
    "bpf_program__attach_ksyscall": (c_void_p, (c_void_p, c_char_p, c_void_p), "1.0"),
    "bpf_program__attach_netfilter": (c_void_p, (c_void_p, c_void_p), "1.3"),
    "bpf_program__attach_netkit": (c_void_p, (c_void_p, c_int, c_void_p), "1.3"),
    "bpf_program__attach_netns": (c_void_p, (c_void_p, c_int), "0.0.9"),
    "bpf_program__attach_sockmap": (c_void_p, (c_void_p, c_int), "1.5"),
    "bpf_program__attach_tcx": (c_void_p, (c_void_p, c_int, c_void_p), "1.3"),
    "bpf_program__attach_raw_tracepoint": (c_void_p, (c_void_p, c_char_p), "0.0.4"),
    "bpf_program__attach_tracepoint_opts": (
        c_void_p,
        (c_void_p, c_char_p, c_char_p, c_void_p),
        "0.5",
    ),
    "bpf_program__attach_tracing_multi": (c_void_p, (c_void_p, c_char_p, c_void_p), "1.8"),
    "bpf_program__attach_uprobe_multi": (
        c_void_p,
        (c_void_p, c_int, c_char_p, c_char_p, c_void_p),
        "1.3",
    ),
    "bpf_program__attach_uprobe_opts": (
        c_void_p,
        (c_void_p, c_int, c_char_p, c_size_t, c_void_p),
        "0.5",
    ),
    "bpf_program__attach_usdt": (
        c_void_p,
        (c_void_p, c_int, c_char_p, c_char_p, c_char_p, c_void_p),
        "0.8",
    ),
    "bpf_program__attach_xdp": (c_void_p, (c_void_p, c_int), "0.1"),
    "bpf_map__attach_struct_ops": (c_void_p, _pointer, "0.0.7"),
    "bpf_map__set_pin_path": (c_int, (c_void_p, c_char_p), "0.0.6"),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int), "0.0.4"),
    "bpf_map__name": (c_char_p, _pointer, "0.0.1"),
    "bpf_map__fd": (c_int, _pointer, "0.0.1"),
    "bpf_map__type": (c_int, _pointer, "0.2"),
    "bpf_map__map_flags": (c_uint32, _pointer, "0.2"),
    "bpf_map__max_entries": (c_uint32, _pointer, "0.2"),
    "bpf_map__key_size": (c_uint32, _pointer, "0.2"),
    "bpf_map__value_size": (c_uint32, _pointer, "0.2"),
    "bpf_map__btf_key_type_id": (c_uint32, _pointer, "0.0.1"),
    "bpf_map__btf_value_type_id": (c_uint32, _pointer, "0.0.1"),
    "bpf_map__initial_value": (c_void_p, (c_void_p, c_void_p), "0.8"),
    "bpf_map__is_internal": (c_bool, _pointer, "0.0.5"),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32), "0.2"),
    "bpf_map__pin_path": (c_char_p, _pointer, "0.0.6"),
    "bpf_map__pin": (c_int, (c_void_p, c_char_p), "0.0.1"),
    "bpf_btf_load": (c_int, (c_char_p, c_size_t, c_void_p), "0.7"),
    "bpf_map_create": (
        c_int,
        (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p),
        "0.7",
    ),
    "bpf_map_lookup_elem": (c_int, (c_int, c_void_p, c_void_p), "0.0.1"),
    "bpf_map_update_elem": (c_int, (c_int, c_void_p, c_void_p, ctypes.c_uint64), "0.0.1"),
    "bpf_map_lookup_and_delete_elem": (c_int, (c_int, c_void_p, c_void_p), "0.0.1"),
    "bpf_map_delete_elem": (c_int, (c_int, c_void_p), "0.0.1"),
    "bpf_map_get_next_key": (c_int, (c_int, c_void_p, c_void_p), "0.0.1"),
    "bpf_map_lookup_batch": (
        c_int,
        (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        "0.0.7",
    ),
    "bpf_linker__new": (c_void_p, (c_char_p, c_void_p), "0.4"),
    "bpf_linker__add_file": (c_int, (c_void_p, c_char_p, c_void_p), "0.4"),
    "bpf_linker__finalize": (c_int, _pointer, "0.4"),
    "bpf_linker__free": (None, _pointer, "0.4"),
    "bpf_link__fd": (c_int, _pointer, "0.0.8"),
    "bpf_link__open": (c_void_p, (c_char_p,), "0.0.8"),
    "bpf_link__pin": (c_int, (c_void_p, c_char_p), "0.0.8"),
    "bpf_link__unpin": (c_int, _pointer, "0.0.8"),
    "bpf_link__pin_path": (c_char_p, _pointer, "0.0.8"),
    "bpf_link__update_program": (c_int, (c_void_p, c_void_p), "0.0.8"),
    "bpf_link__update_map": (c_int, (c_void_p, c_void_p), "1.2"),
    "bpf_link__detach": (c_int, _pointer, "0.1"),
    "bpf_link__disconnect": (None, _pointer, "0.0.7"),
    "bpf_link__destroy": (c_int, _pointer, "0.0.4"),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, c_void_p), "0.0.8"),
    "bpf_link_update": (c_int, (c_int, c_int, c_void_p), "0.0.8"),
    "bpf_link_detach": (c_int, _int, "0.1"),
    "bpf_link_get_fd_by_id": (c_int, (c_uint32,), "0.0.9"),
    "bpf_link_get_next_id": (c_int, (c_uint32, c_void_p), "0.0.9"),
    "bpf_prog_get_fd_by_id": (c_int, (c_uint32,), "0.0.1"),
    "bpf_prog_get_next_id": (c_int, (c_uint32, c_void_p), "0.0.1"),
    "bpf_map_get_fd_by_id": (c_int, (c_uint32,), "0.0.1"),
    "bpf_map_get_next_id": (c_int, (c_uint32, c_void_p), "0.0.1"),
    "bpf_iter_create": (c_int, _int, "0.0.9"),
    "bpf_obj_pin": (c_int, (c_int, c_char_p), "0.0.1"),
    "bpf_obj_get": (c_int, (c_char_p,), "0.0.1"),
    "bpf_obj_get_opts": (c_int, (c_char_p, c_void_p), "1.0"),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, c_void_p), "0.0.1"),
    "bpf_prog_load": (
        c_int,
        (c_int, c_char_p, c_char_p, c_char_p, c_size_t, c_void_p),
        "0.6",
    ),
    "bpf_prog_test_run_opts": (c_int, (c_int, c_void_p), "0.4"),
    "bpf_xdp_attach": (c_int, (c_int, c_int, c_uint32, c_void_p), "0.7"),
    "bpf_xdp_query_id": (c_int, (c_int, c_int, c_void_p), "0.8"),
    "bpf_xdp_detach": (c_int, (c_int, c_uint32, c_void_p), "0.7"),
    "bpf_raw_tracepoint_open": (c_int, (c_char_p, c_int), "0.0.1"),
    "bpf_enable_stats": (c_int, _int, "0.0.9"),
    "libbpf_probe_bpf_map_type": (c_int, (c_int, c_void_p), "0.7"),
    "libbpf_probe_bpf_prog_type": (c_int, (c_int, c_void_p), "0.7"),
    "btf__find_by_name_kind": (c_int, (c_void_p, c_char_p, c_uint32), "0.0.5"),
    "bpf_prog_attach": (c_int, (c_int, c_int, c_int, c_uint32), "0.0.1"),
    "bpf_prog_detach2": (c_int, (c_int, c_int, c_int), "0.0.1"),
    "bpf_prog_query": (
        c_int,
        (c_int, c_int, c_uint32, c_void_p, c_void_p, c_void_p),
        "0.0.1",
    ),
    "bpf_tc_hook_create": (c_int, _pointer, "0.4"),
    "bpf_tc_hook_destroy": (c_int, _pointer, "0.4"),
    "bpf_tc_attach": (c_int, (c_void_p, c_void_p), "0.4"),
    "bpf_tc_detach": (c_int, (c_void_p, c_void_p), "0.4"),
    "btf__raw_data": (c_void_p, (c_void_p, c_void_p), "0.1"),
    "btf__parse_raw": (c_void_p, (c_char_p,), "0.1"),
    "btf__load_vmlinux_btf": (c_void_p, (), "0.5"),
    "btf__load_from_kernel_by_id_split": (c_void_p, (c_uint32, c_void_p), "0.5"),
    "bpf_btf_get_fd_by_id": (c_int, (c_uint32,), "0.0.1"),
    "btf__type_cnt": (c_uint32, _pointer, "0.6"),
    "btf__type_by_id": (c_void_p, (c_void_p, c_uint32), "0.0.1"),
    "btf__name_by_offset": (c_char_p, (c_void_p, c_uint32), "0.0.1"),
    "btf__free": (None, _pointer, "0.0.1"),
    "btf_dump__new": (c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p), "0.0.4"),
    "btf_dump__dump_type": (c_int, (c_void_p, c_uint32), "0.0.4"),
    "btf_dump__free": (None, _pointer, "0.0.4"),
    "user_ring_buffer__new": (c_void_p, (c_int, c_void_p), "1.1"),
    "user_ring_buffer__reserve": (c_void_p, (c_void_p, c_uint32), "1.1"),
    "user_ring_buffer__submit": (None, (c_void_p, c_void_p), "1.1"),
    "user_ring_buffer__free": (None, _pointer, "1.1"),
    "libbpf_num_possible_cpus": (c_int, (), "0.0.4"),
    "libbpf_set_print": (c_void_p, _pointer, "0.0.1"),
    "libbpf_version_string": (c_char_p, (), "0.6"),
}


@dataclass
class _State:
    """Which library this process uses."""

    path: str = SONAME
    library: _Library | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


def use(path: str | Path) -> None:
    """Load this shared object instead of the system's; to be called before any other function.

    Raises `RuntimeError` when another libbpf is loaded already: two in one process would share
    nothing, not even their logs.
    """
    if _state.library is not None and _state.path != str(path):
        raise RuntimeError(f"libbpf {_state.path} is loaded already, can't use {path}")
    _state.path = str(path)


def version() -> str:
    """Release of the loaded libbpf, such as `1.1.2`."""
    string: bytes = _library().function("libbpf_version_string")()
    return string.decode().removeprefix("v")


def path() -> str:
    """The name of the loaded library: the system's soname, or the path given to `use()`."""
    return _state.path


def require(name: str) -> None:
    """Raise `NotSupported` where the loaded libbpf lacks a function of `_PROTOTYPES`."""
    _library().function(name)


def has(name: str) -> bool:
    """Whether the loaded libbpf has a function of `_PROTOTYPES`."""
    try:
        _library().function(name)
    except NotSupported:
        return False
    return True


def address(name: str) -> int:
    """Return the address of a function of the loaded libbpf in this process."""
    return ctypes.cast(_library().function(name), c_void_p).value or 0


def call(name: str, *arguments: Any, doing: str, answer: int = 0) -> int:
    """Call a function of libbpf and return its result: a number or an address.

    `doing` names the operation and its object; the sentence of the error begins with it. Raises
    `VerifierError`, `NotSupported` or `BpfError`, with libbpf's log of the call. A failure with the
    errno `answer` raises nothing: the negative errno is returned.
    """
    __tracebackhide__ = True  # a failed test's traceback ends at the caller
    function = _library().function(name)
    lines: list[str] = []
    _log.lines = lines
    ctypes.set_errno(0)
    result: int = function(*arguments)
    if _log.interruption is not None:
        interruption, _log.interruption = _log.interruption, None
        raise interruption
    if function.restype is c_int and result < 0 and -result != answer:
        raise _error(-result, doing, lines)
    if function.restype is c_void_p and not result and name not in _NULL_IS_AN_ANSWER:
        raise _error(ctypes.get_errno(), doing, lines)
    return result


def text(name: str, *arguments: Any) -> str | None:
    """Call a function that returns a string of an object; None where the object has none."""
    string: bytes | None = _library().function(name)(*arguments)
    return None if string is None else os.fsdecode(string)


def read_info(fd: int, kind: type[_Structure], *, doing: str) -> _Structure:
    """`BPF_OBJ_GET_INFO_BY_FD` into a fresh structure of `kind`."""
    return refresh_info(fd, kind(), doing=doing)


def refresh_info(fd: int, info: _Structure, *, doing: str) -> _Structure:
    """`BPF_OBJ_GET_INFO_BY_FD` into `info`, and into the buffers that `info` points to."""
    length = c_uint32(ctypes.sizeof(info))
    call("bpf_obj_get_info_by_fd", fd, ctypes.byref(info), ctypes.byref(length), doing=doing)
    return info


# Iterators end with null; a map may have no initial value, and an object no BTF.
_NULL_IS_AN_ANSWER = frozenset(
    {
        "bpf_object__next_program",
        "bpf_object__next_map",
        "bpf_map__initial_value",
        "bpf_object__btf",
    }
)

_BEGIN_VERIFIER_LOG = "-- BEGIN PROG LOAD LOG --"
_END_VERIFIER_LOG = "-- END PROG LOAD LOG --"


def _error(number: int, doing: str, lines: list[str]) -> BpfError:
    log = "".join(lines)
    before, begin, rest = log.partition(_BEGIN_VERIFIER_LOG)
    if begin:
        verifier_log, _, after = rest.partition(_END_VERIFIER_LOG)
        # libbpf puts its own prefix before the marker, on the marker's line: `prog 'NAME': `.
        kept, _, prefix = before.rpartition("\n")
        program = prefix.partition("'")[2].rpartition("'")[0]
        return VerifierError(
            number, doing, program=program, verifier_log=verifier_log, log=kept + after
        )
    return BpfError(number, doing, log=log)


class _Library:
    """A loaded libbpf: its functions with their prototypes. Its log goes to `_catch_log`."""

    def __init__(self, path: str) -> None:
        try:
            self._dll = ctypes.CDLL(path, use_errno=True)
        except OSError as error:
            raise BpfError(
                error.errno or errno.ENOEXEC,
                f"load libbpf ({error})",
                hint="install it (Debian: apt install libbpf1), or name one with --bpf-libbpf",
            ) from error
        self._functions: dict[str, Any] = {}
        _keep_interruptions()
        self._print = _PRINT_FUNCTION(_catch_log)
        self.function("libbpf_set_print")(ctypes.cast(self._print, c_void_p))

    def function(self, name: str) -> Any:
        try:
            return self._functions[name]
        except KeyError:
            function = self._functions[name] = self._bind(name)
            return function

    def _bind(self, name: str) -> Any:
        result, arguments, since = _PROTOTYPES[name]
        try:
            function = getattr(self._dll, name)
        except AttributeError:
            raise NotSupported(
                f"call {name}", since=f"libbpf {since}", here=f"libbpf {self._release()}"
            ) from None
        function.restype = result
        function.argtypes = arguments
        return function

    def _release(self) -> str:
        # Called while the library is being loaded, too, and for a library that is no libbpf.
        function = getattr(self._dll, "libbpf_version_string", None)
        if function is None:
            return "of an unknown release"
        function.restype = c_char_p
        text: bytes = function()
        return text.decode().removeprefix("v")


def _library() -> _Library:
    if _state.library is None:
        with _state.lock:
            if _state.library is None:
                _state.library = _Library(_state.path)
    return _state.library


_PRINT_FUNCTION = ctypes.CFUNCTYPE(c_int, c_int, c_char_p, c_void_p)
_LIBBPF_DEBUG = 2


class _Log(threading.local):
    """libbpf's log of this thread's present call, and the exception that is to end the call."""

    lines: list[str]
    interruption: BaseException | None

    def __init__(self) -> None:
        self.lines = []
        self.interruption = None


_log = _Log()
_state = _State()


def _keep_interruptions() -> None:
    """Let Ctrl-C end a call of libbpf.

    Python may run a signal handler inside `_catch_log`. The exception of the handler can't pass
    through libbpf: ctypes reports it to `sys.unraisablehook` and drops it. `call()` raises it.
    """
    others = sys.unraisablehook

    def keep(unraisable: sys.UnraisableHookArgs) -> None:
        # Python 3.13 and later name the callback in err_msg only.
        is_ours = unraisable.object is _catch_log or repr(_catch_log) in (unraisable.err_msg or "")
        if is_ours and unraisable.exc_value is not None:
            _log.interruption = unraisable.exc_value
        else:
            others(unraisable)

    sys.unraisablehook = keep


def _catch_log(level: int, template: bytes, arguments: int) -> int:
    if level == _LIBBPF_DEBUG:
        return 0
    _log.lines.append(_format(template, arguments).removeprefix("libbpf: "))
    return 0


def _format(template: bytes, arguments: int) -> str:
    """Format with a `va_list`, which is passed by address on every 64-bit ABI libbpf runs on."""
    message = c_void_p()
    length = libc().vasprintf(ctypes.byref(message), template, c_void_p(arguments))
    if length < 0:
        return "(libbpf's message could not be formatted: out of memory)"
    try:
        return ctypes.string_at(message, length).decode(errors="replace")
    finally:
        libc().free(message)
