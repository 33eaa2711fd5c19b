"""Links as Python objects: how they are made, their facts, and who closes descriptors."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import (
    AttachType,
    BpfError,
    CgroupLinkInfo,
    Link,
    LinkInfo,
    LinkType,
    RawTracepointLinkInfo,
    TracingLinkInfo,
    eventually,
    link_ids,
    links,
)
from pytest_bpflink.binding.uapi import AttachFlags, ProgType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs, Cgroup, Object, Program

EGRESS = "../../selftests/progs/cgroup_egress.bpf.c"
SYS_ENTER = "../../selftests/progs/sys_enter.bpf.c"


@pytest.fixture
def egress(bpf_object: Callable[..., Object]) -> Program:
    return bpf_object(EGRESS).program("egress")


@pytest.fixture
def attached(egress: Program, cgroup: Cgroup, bpf_link: Callable[..., Link]) -> Link:
    return bpf_link(egress, cgroup)


@pytest.fixture(params=["attach", "open", "from_fd", "by_id"])
def link(request: pytest.FixtureRequest, attached: Link, bpffs: BpfFs) -> Iterator[Link]:
    """The same link, from each way to make a `Link`."""
    if request.param == "attach":
        yield attached
        return
    if request.param == "open":
        attached.pin(bpffs / "opened")
        made = Link.open(bpffs / "opened")
        made.unpin()
    else:
        made = Link.from_fd(attached.fd) if request.param == "from_fd" else Link.by_id(attached.id)
    with made:
        yield made


def test_identity(link: Link, attached: Link, egress: Program, cgroup: Cgroup) -> None:
    assert link.id == attached.id
    assert link.info == CgroupLinkInfo(
        attached.id, egress.id, cgroup.id, AttachType.CGROUP_INET_EGRESS
    )
    assert link.info.type is LinkType.CGROUP
    assert os.fstat(link.fd)


def test_pin_and_unpin(link: Link, bpffs: BpfFs) -> None:
    assert link.pin_path is None

    link.pin(bpffs / "here")
    assert link.pin_path == bpffs / "here"
    assert list(bpffs.pins()) == [bpffs / "here"]

    link.unpin()
    assert link.pin_path is None
    assert list(bpffs.pins()) == []

    link.pin(str(bpffs / "again"))
    assert link.pins == (bpffs / "here", bpffs / "again")


def test_destroy_closes_its_descriptor(link: Link) -> None:
    number = link.fd
    link.destroy()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_disconnect_keeps_its_descriptor_until_close(link: Link) -> None:
    number = link.fd
    link.disconnect()
    link.destroy()
    os.fstat(number)

    link.close()
    link.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_forgotten_link_warns_and_is_destroyed(egress: Program, cgroup: Cgroup) -> None:
    forgotten = [egress.attach(cgroup)]
    link_id = forgotten[0].id
    with pytest.warns(ResourceWarning, match=rf"<Link {link_id}, egress on .*> was never"):
        forgotten.clear()
    assert link_id not in link_ids()


def test_forgotten_disconnected_descriptor_warns(attached: Link) -> None:
    forgotten = [Link.by_id(attached.id)]
    number = forgotten[0].fd
    forgotten[0].disconnect()
    forgotten[0].destroy()
    with pytest.warns(ResourceWarning, match="was never destroyed"):
        forgotten.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_close_spares_another_descriptor_that_has_got_the_number(attached: Link) -> None:
    link = Link.by_id(attached.id)
    number = link.fd
    link.disconnect()
    link.destroy()
    os.close(number)
    with open(os.devnull, "rb") as other:
        os.dup2(other.fileno(), number)
        link.close()
        os.fstat(number)
        if number != other.fileno():
            os.close(number)


@pytest.mark.parametrize("make", ["from_fd", "by_id", "attach"])
def test_nothing_is_lost_where_the_kernel_refuses_info(
    attached: Link,
    egress: Program,
    cgroup: Cgroup,
    monkeypatch: pytest.MonkeyPatch,
    make: str,
) -> None:
    """As Linux 5.10 does for a user who has only inherited a descriptor."""
    ways: dict[str, Callable[[], Link]] = {
        "from_fd": lambda: Link.from_fd(attached.fd),
        "by_id": lambda: Link.by_id(attached.id),
        "attach": lambda: egress.attach(cgroup),
    }
    before, ids = len(os.listdir("/proc/self/fd")), set(link_ids())
    with monkeypatch.context() as patch:
        patch.setattr("pytest_bpflink.binding.libbpf.read_info", _refuse)
        with pytest.raises(BpfError, match=r"read the id of .*: EPERM"):
            ways[make]()
    assert len(os.listdir("/proc/self/fd")) == before
    assert set(link_ids()) <= ids


def _refuse(_fd: int, _kind: object, *, doing: str) -> None:
    raise BpfError(errno.EPERM, doing)


def test_repr(attached: Link, cgroup: Cgroup) -> None:
    assert repr(attached) == f"<Link {attached.id}, egress on {cgroup.path}>"
    attached.destroy()
    assert repr(attached) == f"<Link {attached.id}, egress on {cgroup.path} destroyed>"


def test_links_finds_a_link_and_closes_the_descriptors_that_it_opened(attached: Link) -> None:
    before = len(os.listdir("/proc/self/fd"))

    found = {link.id: link.info for link in links()}

    assert found[attached.id] == attached.info
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_stopped_half_way(attached: Link) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for link in links():
        if link.id == attached.id:
            break
    assert len(os.listdir("/proc/self/fd")) == before


def test_link_ids_are_ascending_and_from_after(attached: Link) -> None:
    ids = list(link_ids())
    assert ids == sorted(ids)
    assert list(link_ids(attached.id - 1))[0] == attached.id  # noqa: RUF015 - next() hides none
    assert attached.id not in link_ids(attached.id)


def test_info_of_raw_tracepoint(
    bpf_object: Callable[..., Object], bpf_link: Callable[..., Link]
) -> None:
    """A tp_btf link is of type RAW_TRACEPOINT as well, on every kernel."""
    loaded = bpf_object(SYS_ENTER)
    for name in ("pin_raw_tp", "pin_tp_btf"):
        link = bpf_link(loaded.program(name))
        assert link.info == RawTracepointLinkInfo(
            link.id, loaded.program(name).id, tp_name="sys_enter"
        )


def test_program_says_what_it_is(bpf_object: Callable[..., Object]) -> None:
    loaded = bpf_object(EGRESS)
    facts = {
        program.name: (program.section, program.type, program.expected_attach_type)
        for program in loaded.programs.values()
    }
    skb, sock = ProgType.CGROUP_SKB, ProgType.CGROUP_SOCK
    assert facts == {
        "egress": ("cgroup_skb/egress", skb, AttachType.CGROUP_INET_EGRESS),
        "egress_alt": ("cgroup_skb/egress", skb, AttachType.CGROUP_INET_EGRESS),
        "sock_create": ("cgroup/sock_create", sock, AttachType.CGROUP_INET_SOCK_CREATE),
    }


def test_unknown_numbers_of_later_kernels() -> None:
    assert LinkType(99).name == "UNKNOWN_99"
    assert LinkType(99) == 99
    assert AttachType(1000) is not AttachType.XDP
    assert AttachFlags(3) == AttachFlags.ALLOW_OVERRIDE | AttachFlags.ALLOW_MULTI


def test_infos_compare_by_value() -> None:
    assert LinkInfo(1, 2, type=LinkType.UNSPEC) == LinkInfo(1, 2, type=LinkType.UNSPEC)
    assert TracingLinkInfo(1, 2, AttachType.TRACE_FENTRY).type is LinkType.TRACING
    assert TracingLinkInfo(1, 2, AttachType.TRACE_FENTRY) != TracingLinkInfo(
        1, 2, AttachType.TRACE_FEXIT
    )


def test_end_of_a_pin_is_seen_by_its_holders(attached: Link, bpffs: BpfFs) -> None:
    attached.pin(bpffs / "link")
    assert len(attached.holders()) == 2
    attached.remove_pins()
    eventually(lambda: len(attached.holders()) == 1)
