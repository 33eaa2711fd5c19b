"""The kernel's `bpf_obj_id`: links, programs and maps by their ids, and one after the other.

Ported from tools/testing/selftests/bpf/prog_tests/bpf_obj_id.c (Linux 4.13; links since 5.9).

Beyond upstream, ids ascend, an id is gone with its object and is never given again, and a name's
buffer that is too small or missing is refused.

Left out: the code, times, sizes and owner in the infos of programs and maps, which are no matter of
links.
"""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Link, Map, Program, RawTracepointLinkInfo, link_ids
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfLinkInfo
from pytest_bpflink.selftests.support.witness import SyscallWitness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def witnesses() -> Iterator[tuple[SyscallWitness, SyscallWitness]]:
    """The same programs, loaded twice."""
    with SyscallWitness.of("pin_raw_tp") as first, SyscallWitness.of("pin_raw_tp") as second:
        yield first, second


@pytest.fixture
def links(
    witnesses: tuple[SyscallWitness, SyscallWitness], bpf_link: Callable[..., Link]
) -> list[Link]:
    return [bpf_link(one.object.program("pin_raw_tp")) for one in witnesses]


@pytest.mark.parametrize("kind", [Link, Program, Map], ids=lambda kind: kind.__name__.lower())
def test_zero_is_no_id(kind: type[Link | Program | Map]) -> None:
    """No object has the id 0: ENOENT."""
    with pytest.raises(BpfError) as refused:
        kind.by_id(0)
    assert refused.value.errno == errno.ENOENT


def test_link_infos(links: list[Link], witnesses: tuple[SyscallWitness, SyscallWitness]) -> None:
    """Each link has its own id and its own program, and its descriptor by id the same info."""
    programs = [one.object.program("pin_raw_tp") for one in witnesses]
    assert [link.info for link in links] == [
        RawTracepointLinkInfo(link.id, program.id, tp_name="sys_enter")
        for link, program in zip(links, programs, strict=True)
    ]
    assert len({link.id for link in links}) == len({program.id for program in programs}) == 2
    for link, witness in zip(links, witnesses, strict=True):
        with Link.by_id(link.id) as again:
            assert again.info == link.info
            assert again.fd != link.fd
        assert witness.runs()


def test_next_ids(links: list[Link]) -> None:
    """Ids are enumerated in ascending order, each link once, and none after its end."""
    first, second = links
    assert first.id < second.id
    found = list(link_ids())
    assert found == sorted(set(found))
    assert {first.id, second.id} <= set(found)
    assert next(link_ids(after=first.id)) <= second.id

    first.destroy()

    assert first.id not in link_ids()
    with pytest.raises(BpfError) as refused:
        Link.by_id(first.id)
    assert refused.value.errno == errno.ENOENT
    assert second.id in link_ids()


@pytest.mark.parametrize(
    ("address", "length", "expected", "written"),
    [
        pytest.param(0, 10, errno.EINVAL, b"", id="no_buffer"),
        pytest.param(None, 0, errno.EINVAL, b"", id="no_length"),
        pytest.param(None, 9, errno.ENOSPC, b"sys_ente\0", id="too_short"),
        pytest.param(1, 10, errno.EFAULT, b"", id="no_memory"),
    ],
)
def test_name_has_no_room(
    links: list[Link], address: int | None, length: int, expected: int, written: bytes
) -> None:
    """A name that does not fit is cut off and ENOSPC; half of a buffer is EINVAL."""
    name = ctypes.create_string_buffer(b"." * 16)
    info = BpfLinkInfo()
    info.detail.raw_tracepoint.tp_name = ctypes.addressof(name) if address is None else address
    info.detail.raw_tracepoint.tp_name_len = length
    with pytest.raises(BpfError) as refused:
        libbpf.refresh_info(links[0].fd, info, doing="read a name")
    assert refused.value.errno == expected
    assert name.raw[:16] == written + b"." * (16 - len(written))
