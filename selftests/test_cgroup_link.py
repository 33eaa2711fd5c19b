"""The kernel's `cgroup_link`: links at every level, beside and against programs without a link.

Ported from tools/testing/selftests/bpf/prog_tests/cgroup_link.c (Linux 5.7), whose sixteen steps
the docstrings name. Beyond upstream, each refusal is EPERM and nothing else, and auto-detach is
proven: the programs still count the packets of a socket that was made inside after rmdir, and when
it is closed the links lose their cgroup. (Upstream's last step can't fail: it sends no packet.)

Below, "(4, 0)" means that one datagram from the lowest cgroup makes `egress` run four times, and
`egress_alt` not at all.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import (
    AttachFlags,
    AttachType,
    BpfError,
    Cgroup,
    CgroupLinkInfo,
    Link,
    Program,
    eventually,
)
from pytest_bpflink.selftests.support.witness import PacketWitness, datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Object

EGRESS = AttachType.CGROUP_INET_EGRESS


@pytest.fixture
def witness(bpf_object: Callable[..., Object]) -> PacketWitness:
    return PacketWitness(bpf_object("progs/cgroup_egress.bpf.c"))


@pytest.fixture
def egress(witness: PacketWitness) -> Program:
    return witness.object.program("egress")


@pytest.fixture
def egress_alt(witness: PacketWitness) -> Program:
    return witness.object.program("egress_alt")


@pytest.fixture
def levels(cgroup: Cgroup) -> list[Cgroup]:
    """cg1, cg1/cg2, cg1/cg2/cg3 and cg1/cg2/cg3/cg4."""
    chain = [cgroup.create("cg1")]
    for name in ("cg2", "cg3", "cg4"):
        chain.append(chain[-1].create(name))
    return chain


@pytest.fixture
def attached(levels: list[Cgroup], egress: Program, bpf_link: Callable[..., Link]) -> list[Link]:
    """A link to `egress` at each level, the highest first."""
    return [bpf_link(egress, level) for level in levels]


def test_links_at_all_levels_run(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness
) -> None:
    """Step 1: (4, 0)."""
    assert len(attached) == 4
    assert witness.of_datagram_from(levels[-1]) == (4, 0)


def test_query(attached: list[Link], levels: list[Cgroup], egress: Program) -> None:
    """Steps 2 and 3: cg1 has one program with ALLOW_MULTI, in cg4 four are in effect."""
    assert len(attached) == 4

    assert levels[0].attached(EGRESS).flags == AttachFlags.ALLOW_MULTI
    assert levels[0].attached(EGRESS).prog_ids == (egress.id,)
    assert levels[-1].attached(EGRESS, effective=True).prog_ids == (egress.id,) * 4


def test_destroyed_link_stops(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness
) -> None:
    """Step 4: without the lowest link (3, 0)."""
    attached[3].destroy()

    assert witness.of_datagram_from(levels[-1]) == (3, 0)
    assert levels[-1].attached(EGRESS).prog_ids == ()


def test_link_coexists_with_allow_multi(
    attached: list[Link],
    levels: list[Cgroup],
    witness: PacketWitness,
    egress: Program,
    bpf_link: Callable[..., Link],
) -> None:
    """Steps 5 and 6: a link beside a program attached with ALLOW_MULTI, (5, 0)."""
    attached[3].destroy()
    levels[-1].attach(egress, AttachFlags.ALLOW_MULTI)
    link = bpf_link(egress, levels[-1])

    assert witness.of_datagram_from(levels[-1]) == (5, 0)

    link.destroy()
    levels[-1].detach(egress)

    assert witness.of_datagram_from(levels[-1]) == (3, 0)


def test_exclusive_program_refuses_link(
    attached: list[Link],
    levels: list[Cgroup],
    witness: PacketWitness,
    egress: Program,
    bpf_link: Callable[..., Link],
) -> None:
    """Steps 7 and 8: a program attached without flags keeps links out, until it is detached."""
    attached[3].destroy()
    levels[-1].attach(egress)
    with pytest.raises(BpfError) as refused:
        bpf_link(egress, levels[-1])
    assert refused.value.errno == errno.EPERM
    assert witness.of_datagram_from(levels[-1]) == (4, 0)

    levels[-1].detach(egress)
    assert witness.of_datagram_from(levels[-1]) == (3, 0)

    bpf_link(egress, levels[-1])
    assert witness.of_datagram_from(levels[-1]) == (4, 0)


def test_link_refuses_exclusive_program(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness, egress: Program
) -> None:
    """Step 9: a link keeps out a program that would be attached without flags."""
    assert len(attached) == 4

    with pytest.raises(BpfError) as refused:
        levels[-1].attach(egress)

    assert refused.value.errno == errno.EPERM
    assert witness.of_datagram_from(levels[-1]) == (4, 0)


def test_update(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness, egress_alt: Program
) -> None:
    """Step 10: with links 2 to 4 updated to the other program (1, 3)."""
    for link in attached[1:]:
        link.update(egress_alt)

    assert witness.of_datagram_from(levels[-1]) == (1, 3)
    assert [link.info.prog_id == egress_alt.id for link in attached] == [False, True, True, True]


def test_compare_exchange_with_wrong_old_program(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness, egress_alt: Program
) -> None:
    """Step 11: an update from a program that is not the present one is EPERM and does nothing."""
    with pytest.raises(BpfError) as refused:
        attached[0].update(egress_alt, old=egress_alt)

    assert refused.value.errno == errno.EPERM
    assert witness.of_datagram_from(levels[-1]) == (4, 0)


def test_compare_exchange(
    attached: list[Link],
    levels: list[Cgroup],
    witness: PacketWitness,
    egress: Program,
    egress_alt: Program,
) -> None:
    """Step 12: an update from the present program takes place, here (0, 4)."""
    for link in attached:
        link.update(egress_alt, old=egress)

    assert witness.of_datagram_from(levels[-1]) == (0, 4)


def test_links_survive_cgroup_descriptors(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness
) -> None:
    """Step 13: closing the descriptors of the cgroups changes nothing."""
    assert len(attached) == 4
    for level in levels:
        level.close()

    assert witness.of_datagram_from(levels[-1]) == (4, 0)


def test_info(attached: list[Link], levels: list[Cgroup], egress: Program) -> None:
    """Step 14: a link's info names its program, its cgroup and its attach type."""
    assert [link.info for link in attached] == [
        CgroupLinkInfo(link.id, egress.id, level.id, EGRESS)
        for link, level in zip(attached, levels, strict=True)
    ]


def test_detach(
    attached: list[Link], levels: list[Cgroup], witness: PacketWitness, egress: Program
) -> None:
    """Step 15: a detached link's program stops, and its info can still be read."""
    attached[0].detach()

    assert witness.of_datagram_from(levels[-1]) == (3, 0)
    assert attached[0].info == CgroupLinkInfo(attached[0].id, egress.id, 0, EGRESS)

    attached[0].detach()

    with pytest.raises(BpfError) as refused:
        attached[0].update(egress)
    assert refused.value.errno == errno.ENOLINK


def test_auto_detach(
    attached: list[Link],
    levels: list[Cgroup],
    cgroup: Cgroup,
    witness: PacketWitness,
    egress: Program,
    bpf_link: Callable[..., Link],
) -> None:
    """Step 16: removing the cgroups detaches their links, once no socket made inside is left."""
    empty = cgroup.create("empty")
    to_empty = bpf_link(egress, empty)
    with levels[-1].entered():
        inside = datagram_socket()
    with inside:
        for level in reversed(levels):
            level.path.rmdir()
        empty.path.rmdir()

        # When the empty cgroup has let go of its link, the others would have too, were there no
        # socket. It holds its dead cgroup, and a cgroup its ancestors: all four programs still run.
        eventually(partial(_has_no_cgroup, to_empty), what="a link loses its empty cgroup")
        assert witness.of_datagram_through(inside) == (4, 0)
        attached[0].update(egress)
        assert all(_cgroup_id(link) for link in attached)

    for link, level in zip(attached, levels, strict=True):
        assert _cgroup_id(link) in {level.id, 0}
        eventually(partial(_has_no_cgroup, link), what=f"{link} loses its cgroup")
        with pytest.raises(BpfError) as refused:
            link.update(egress)
        assert refused.value.errno == errno.ENOLINK
        assert link.info == CgroupLinkInfo(link.id, egress.id, 0, EGRESS)


def _cgroup_id(link: Link) -> int:
    info = link.info
    assert isinstance(info, CgroupLinkInfo)
    return info.cgroup_id


def _has_no_cgroup(link: Link) -> bool:
    return _cgroup_id(link) == 0
