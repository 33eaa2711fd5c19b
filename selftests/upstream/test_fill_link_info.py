"""The kernel's `fill_link_info`: what the infos of links to probes and events say, and to whom.

Ported from tools/testing/selftests/bpf/prog_tests/fill_link_info.c (Linux 6.6, cookies since 6.9),
with the names of its subtests.

Beyond upstream, the program has run when its info is read, an info that is refused leaves its
buffers as they were, and a reader without privilege is shown no address of the kernel.

Elsewhere: each field of the infos of all types, with buffers that are too short or are missing, is
in conformance/info, and so is `ref_ctr_offset`.

Left out: uprobes of 6.6 to 6.8, whose infos have no cookies.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import (
    BpfError,
    KprobeMultiLinkInfo,
    PerfEventLinkInfo,
    PerfEventType,
    UprobeMultiLinkInfo,
)
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfLinkInfo
from pytest_bpflink.selftests.conformance.checks import FIRST
from pytest_bpflink.selftests.conformance.event_stages import (
    Functions,
    Kprobe,
    PageFaults,
    Syscalls,
    Uprobe,
)
from pytest_bpflink.selftests.support.absence import made_or_absent
from pytest_bpflink.selftests.support.kallsyms import addresses
from pytest_bpflink.selftests.support.stranger import as_stranger

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo, Link
    from pytest_bpflink.selftests.conformance.stages import Stage

_PERF = pytest.mark.bpf_requires("link:perf_event", since="5.15")
_KPROBE_MULTI = pytest.mark.bpf_requires("link:kprobe_multi", since="5.18")
_UPROBE_MULTI = pytest.mark.bpf_requires("link:uprobe_multi", since="6.6", libbpf="1.3")

pytestmark = [pytest.mark.guest_only, pytest.mark.kernel(">=6.9")]

_COOKIE = 0xDEADBEEF
_FUNCTIONS = ("security_task_getpgid", "security_task_getscheduler")
_RETURN = 1  # BPF_F_KPROBE_MULTI_RETURN and BPF_F_UPROBE_MULTI_RETURN
_NAME_LENGTH = 64
_NO_MEMORY = 1


# The options without which a kernel may lack a kind of events.
_OPTIONS = {
    "on_kprobe": ("CONFIG_KPROBE_EVENTS",),
    "on_tracepoint": ("CONFIG_FTRACE_SYSCALLS",),
    "on_uprobe": ("CONFIG_UPROBE_EVENTS",),
}


def _kinds(*kinds: PerfEventType) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.name.lower())


# One event.


def _probe_address(kernel: KernelInfo) -> int:
    """Return where a kprobe on the function is: behind `endbr64`, if it has one."""
    behind = 4 if kernel.config.get("CONFIG_X86_KERNEL_IBT") == "y" else 0
    return addresses(*_FUNCTIONS)[0] + behind


@_PERF
@_kinds(PerfEventType.KPROBE, PerfEventType.KRETPROBE)
def test_kprobe_link_info(
    kind: PerfEventType, request: pytest.FixtureRequest, bpf_kernel: KernelInfo
) -> None:
    stage = Kprobe(request, "on_kprobe", retprobe=kind is PerfEventType.KRETPROBE, cookie=_COOKIE)
    link = _running(stage)
    expected = PerfEventLinkInfo(
        link.id,
        stage.prog_id,
        kind,
        name=_FUNCTIONS[0],
        address=_probe_address(bpf_kernel),
        cookie=_COOKIE,
    )
    assert link.info == expected
    seen = as_stranger(lambda: link.info)
    assert isinstance(seen, PerfEventLinkInfo)
    assert (seen.name, seen.address) == (expected.name, 0)


@_PERF
@pytest.mark.parametrize(
    ("address", "length", "expected"),
    [
        pytest.param(_NO_MEMORY, 0, errno.EINVAL, id="no_length"),
        pytest.param(0, _NAME_LENGTH, errno.EINVAL, id="no_buffer"),
        pytest.param(_NO_MEMORY, _NAME_LENGTH, errno.EFAULT, id="no_memory"),
    ],
)
def test_kprobe_invalid_ubuff(
    address: int, length: int, expected: int, request: pytest.FixtureRequest
) -> None:
    info = BpfLinkInfo()
    asked = info.detail.perf_event.detail.kprobe
    asked.func_name, asked.name_len = address, length
    assert _refused(_running(Kprobe(request, "on_kprobe")), info) == expected
    assert (info.detail.perf_event.type, asked.addr, asked.offset) == (0, 0, 0)


@_PERF
def test_tracepoint_link_info(request: pytest.FixtureRequest) -> None:
    stage = Syscalls(request, "on_tracepoint", cookie=_COOKIE)
    link = _running(stage)
    assert link.info == PerfEventLinkInfo(
        link.id, stage.prog_id, PerfEventType.TRACEPOINT, name="sys_enter_getpgid", cookie=_COOKIE
    )


@_PERF
def test_event_link_info(request: pytest.FixtureRequest) -> None:
    stage = PageFaults(request, "on_perf_event", cookie=_COOKIE)
    link = _running(stage)
    assert link.info == PerfEventLinkInfo(
        link.id,
        stage.prog_id,
        PerfEventType.EVENT,
        config=2,  # PERF_COUNT_SW_PAGE_FAULTS
        perf_type=1,  # PERF_TYPE_SOFTWARE
        cookie=_COOKIE,
    )


@_PERF
@_kinds(PerfEventType.UPROBE, PerfEventType.URETPROBE)
def test_uprobe_link_info(kind: PerfEventType, request: pytest.FixtureRequest) -> None:
    stage = Uprobe(request, "on_uprobe", retprobe=kind is PerfEventType.URETPROBE, cookie=_COOKIE)
    link = _running(stage)
    assert link.info == PerfEventLinkInfo(
        link.id,
        stage.prog_id,
        kind,
        name=str(stage.target),
        offset=stage.options["offset"],
        cookie=_COOKIE,
    )


# Many functions of the kernel.


@pytest.fixture
def by_address() -> dict[int, int]:
    """The functions' addresses, in the order that the kernel has them in, with their cookies."""
    return dict(sorted(zip(addresses(*_FUNCTIONS), (3, 1), strict=True)))


@_KPROBE_MULTI
@pytest.mark.parametrize("flags", [0, _RETURN], ids=["kprobe", "kretprobe"])
def test_kprobe_multi_link_info(
    flags: int, request: pytest.FixtureRequest, by_address: dict[int, int]
) -> None:
    stage = Functions(request, "on_kprobe_multi", retprobe=bool(flags))
    stage.options["cookies"] = [3, 1]
    link = _running(stage)
    info = link.info
    assert isinstance(info, KprobeMultiLinkInfo)
    assert (info.count, info.flags, info.missed) == (2, flags, 0)
    assert info.addrs == tuple(by_address)
    assert info.cookies == tuple(by_address.values())


@_KPROBE_MULTI
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param({"count": 2}, errno.EINVAL, id="no_addr"),
        pytest.param({"addrs": ...}, errno.EINVAL, id="no_cnt"),
        pytest.param({"cookies": ...}, errno.EINVAL, id="cookies_no_cnt"),
        pytest.param({"count": 2, "addrs": _NO_MEMORY}, errno.EFAULT, id="addrs_no_memory"),
        pytest.param(
            {"count": 2, "addrs": ..., "cookies": _NO_MEMORY}, errno.EFAULT, id="cookies_no_memory"
        ),
    ],
)
def test_kprobe_multi_invalid_ubuff(
    asked: dict[str, Any], expected: int, request: pytest.FixtureRequest
) -> None:
    link = _running(Functions(request, "on_kprobe_multi"))
    assert _ask(link, "kprobe_multi", asked)[0] == expected


@_KPROBE_MULTI
@pytest.mark.parametrize("room", [1, 3])
def test_kprobe_multi_other_count(
    room: int, request: pytest.FixtureRequest, by_address: dict[int, int]
) -> None:
    """With too little room, ENOSPC, the kernel fills what there is; with more only what it has."""
    link = _running(Functions(request, "on_kprobe_multi"))
    result, found = _ask(link, "kprobe_multi", {"count": room, "addrs": ...})
    assert result == (errno.ENOSPC if room < len(_FUNCTIONS) else 0)
    known = tuple(by_address)[:room]
    assert found["addrs"] == known + (0,) * (len(found["addrs"]) - len(known))


# Many places of a file.


@pytest.fixture
def places(request: pytest.FixtureRequest) -> Uprobe:
    """Two functions of a file, of which the first is called."""
    stage = Uprobe(request, "on_uprobe_multi", cookies=[0xDEAD, 0xBEEF])
    first = stage.options["offsets"]
    stage.trace("ffs")
    second = stage.options["offsets"]
    stage.trace("labs")
    stage.options["offsets"] = [*first, *second]
    return stage


@_UPROBE_MULTI
@pytest.mark.parametrize("flags", [0, _RETURN], ids=["uprobe", "uretprobe"])
def test_uprobe_multi_link_info(flags: int, places: Uprobe) -> None:
    places.options |= {"retprobe": bool(flags), "pid": os.getpid()}
    link = _running(places)
    assert link.info == UprobeMultiLinkInfo(
        link.id,
        places.prog_id,
        path=str(places.target),
        count=2,
        flags=flags,
        pid=os.getpid(),
        offsets=tuple(places.options["offsets"]),
        ref_ctr_offsets=(0, 0),
        cookies=(0xDEAD, 0xBEEF),
    )


@_UPROBE_MULTI
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param({"path_size": 3}, errno.EINVAL, id="no_path"),
        pytest.param({"path_size": 3, "path": ...}, errno.ENAMETOOLONG, id="path_too_short"),
        pytest.param({"path_size": 4096, "path": _NO_MEMORY}, errno.EFAULT, id="path_no_memory"),
        pytest.param({"offsets": ...}, errno.EINVAL, id="no_count"),
        pytest.param({"offsets": ..., "count": 1}, errno.ENOSPC, id="small_count"),
        pytest.param({"offsets": _NO_MEMORY, "count": 2}, errno.EFAULT, id="offsets_no_memory"),
        pytest.param({"cookies": _NO_MEMORY, "count": 2}, errno.EFAULT, id="cookies_no_memory"),
    ],
)
def test_uprobe_multi_invalid(asked: dict[str, Any], expected: int, places: Uprobe) -> None:
    link = _running(places)
    result, found = _ask(link, "uprobe_multi", asked)
    assert result == expected
    filled = places.options["offsets"][:1] if expected == errno.ENOSPC else []
    assert [one for one in found.get("offsets", ()) if one] == filled


def _running(stage: Stage) -> Link:
    """Attach the stage's program, and see it run."""
    options = _OPTIONS.get(stage.name, ())
    link = made_or_absent(stage.request.config, stage.name, stage.attach, options=options)
    assert stage.ran() == FIRST
    return link


def _ask(link: Link, part: str, asked: dict[str, Any]) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Ask for an info; `...` is a buffer with room. Return the errno, and what is in buffers."""
    info = BpfLinkInfo()
    buffers = {name: (ctypes.c_uint64 * 4)() for name, value in asked.items() if value is ...}
    for name, value in asked.items():
        there = ctypes.addressof(buffers[name]) if name in buffers else value
        setattr(getattr(info.detail, part), name, there)
    return _refused(link, info), {name: tuple(buffer) for name, buffer in buffers.items()}


def _refused(link: Link, info: BpfLinkInfo) -> int:
    """Ask for a link's info, and return the errno; 0 if it is given."""
    try:
        libbpf.refresh_info(link.fd, info, doing="read a link's info")
    except BpfError as error:
        return error.errno or 0
    return 0
