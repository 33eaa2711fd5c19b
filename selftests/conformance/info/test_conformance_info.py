"""The info of links of any type: every field, and buffers that are too short."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Link, Program
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE, each, every_row
from pytest_bpflink.selftests.conformance.info.asked import EXPECTED, expected, form_of
from pytest_bpflink.selftests.conformance.info.reading import (
    NO_ADDRESS,
    SPARE,
    UNTOUCHED,
    Info,
    Numbers,
    Text,
    asking_for,
    fields,
)
from pytest_bpflink.selftests.support.absence import made_or_absent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only

_COMMON = {"type", "id", "prog_id", "perf_event.type"}

# The sizes of buffers, which are compared with the names and numbers in the buffers.
_SIZES = {
    "raw_tracepoint.tp_name_len",
    "iter.target_name_len",
    "kprobe_multi.count",
    "uprobe_multi.path_size",
    "uprobe_multi.count",
    "tracing_multi.count",
    "perf_event.uprobe.name_len",
    "perf_event.kprobe.name_len",
    "perf_event.tracepoint.name_len",
}
_LEFT = 0xAAAA

# What `Link.info` calls a field, where that is not the last part of its path.
_OURS = {
    "perf_event.type": "event_type",
    "perf_event.event.type": "perf_type",
    "perf_event.kprobe.func_name": "name",
    "perf_event.kprobe.addr": "address",
    "perf_event.uprobe.file_name": "name",
    "perf_event.tracepoint.tp_name": "name",
}

_with_buffers = each(
    lambda row: (
        not row.brief
        and form_of(row)
        in {
            "raw_tracepoint",
            "iter",
            "kprobe_multi",
            "uprobe_multi",
            "tracing_multi",
            "perf_event.kprobe",
            "perf_event.uprobe",
            "perf_event.tracepoint",
        }
    )
)


@every_row
def test_every_field(asked: Link, stage: Stage, row: Row) -> None:
    """Each field that the kernel has for the type is what was asked for, in `Link.info` too."""
    assert stage.ran() == FIRST
    wanted = expected(row, stage)
    info = asking_for(wanted)
    info.read(asked.fd)

    common = {"type": row.link_type, "id": asked.id, "prog_id": stage.prog_id}
    assert {name: info.get(name) for name in common} == common
    ours = asked.info
    for path, value in wanted.items():
        shown = getattr(ours, _OURS.get(path, path.rpartition(".")[2]))
        if isinstance(value, Text | Numbers):
            assert info.buffer(path) == _untouched_behind(value.written), path
            assert shown == value.value, path
        else:
            assert info.get(path, signed=value < 0) == value, path
            assert shown == value, path
    for path, length in _lengths(wanted).items():
        assert info.get(path) == length, path

    asked.destroy()
    assert stage.ran() == NONE


def test_no_field_is_left_out(request: pytest.FixtureRequest) -> None:
    """Each field of the kernel's `bpf_link_info` is compared for some row."""
    made_or_absent(request.config, "BTF", vmlinux, options=("CONFIG_DEBUG_INFO_BTF",))
    compared = {f"{form}.{path}" for form, paths in EXPECTED.items() for path in paths}
    assert fields().keys() - compared - _COMMON - _SIZES == set()


@each(lambda row: row.id == "raw_tp")
def test_short_info(asked: Link, row: Row) -> None:
    """The kernel fills as much of an info as it is given; bytes behind its own must be zero."""
    info = Info()
    info.set("prog_id", _LEFT)
    assert info.read(asked.fd, length=8) == 8
    assert [info.get(name) for name in ("type", "id", "prog_id")] == [
        row.link_type,
        asked.id,
        _LEFT,
    ]


@_with_buffers
def test_short_buffers(asked: Link, stage: Stage, row: Row) -> None:
    """Into a buffer that is too short the kernel writes what has room, and says ENOSPC.

    A name ends with a zero all the same. A path of uprobe_multi is not written: ENAMETOOLONG.
    """
    wanted = expected(row, stage)
    texts = {path: value for path, value in wanted.items() if isinstance(value, Text)}
    for path, value in texts.items():
        is_path = path == "uprobe_multi.path"
        for size in (1, 2, len(value.written) - 1):
            info = asking_for({path: value}, less=len(value.written) - size)
            assert _refusal(info, asked) == (errno.ENAMETOOLONG if is_path else errno.ENOSPC)
            written = b"" if is_path else value.written[: size - 1] + b"\0"
            assert info.buffer(path) == _untouched_behind(written, size - len(written)), size
    numbers = {path: value for path, value in wanted.items() if isinstance(value, Numbers)}
    if numbers:
        info = asking_for(numbers, less=1)
        assert _refusal(info, asked) == errno.ENOSPC
        for path, some in numbers.items():
            assert info.buffer(path) == _untouched_behind(some.written[: -some.size]), path


@_with_buffers
def test_wrong_buffers(asked: Link, stage: Stage, row: Row) -> None:
    """A buffer without its size is EINVAL, and a buffer at no address EFAULT."""
    wanted = expected(row, stage)
    for path, value in wanted.items():
        if not isinstance(value, Text | Numbers):
            continue
        without_size = asking_for({path: value})
        without_size.set(value.length, 0)
        assert _refusal(without_size, asked) == errno.EINVAL, path
        at_no_address = asking_for(wanted)
        at_no_address.set(path, NO_ADDRESS)
        assert _refusal(at_no_address, asked) == errno.EFAULT, path
        if isinstance(value, Text):
            without_buffer = Info()
            without_buffer.set(value.length, 64)
            assert _refusal(without_buffer, asked) == errno.EINVAL, path


@pytest.mark.kernel(">=6.7")
@each(lambda row: row.id == "kprobe")
def test_missed(asked: Link, stage: Stage) -> None:
    """A kprobe that is hit while the program of another one runs counts as missed."""
    assert isinstance(stage.second, Program)
    with stage.second.attach("bpf_get_ns_current_pid_tgid") as within:
        before = _missed(within)
        assert stage.ran() == FIRST
        assert _missed(within) >= before + stage.tries
    assert _missed(asked) == 0


def _missed(link: Link) -> int:
    info = Info()
    info.read(link.fd)
    return info.get("perf_event.kprobe.missed")


def _lengths(wanted: Mapping[str, int | Text | Numbers]) -> dict[str, int]:
    """Return the fields with the sizes of buffers, and what the kernel must write there."""
    return {
        value.length: len(value.written) if isinstance(value, Text) else len(value.value)
        for value in wanted.values()
        if isinstance(value, Text | Numbers)
    }


def _untouched_behind(written: bytes, more: int = 0) -> bytes:
    """Return what a buffer has in it after the kernel has written to its beginning."""
    return written + bytes((UNTOUCHED,)) * (more + SPARE)


def _refusal(info: Info, link: Link) -> int:
    with pytest.raises(BpfError) as refused:
        info.read(link.fd)
    return refused.value.errno or 0
