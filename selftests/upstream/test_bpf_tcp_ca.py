"""The kernel's `bpf_tcp_ca`: which maps a link to a congestion control may be updated to.

Ported from tools/testing/selftests/bpf/prog_tests/bpf_tcp_ca.c (Linux 5.6; links since 6.4), as far
as links go, with the names of its subtests.

Beyond upstream, each refusal's errno, that the link's map is the same after it, and that the
congestion control it had is the one that connections get.

Elsewhere: updates in general and which errno wins are in the conformance suite's row "struct_ops";
an update to the map that the link has, which crashes kernels, is in test_known_bugs.py.

Left out: what congestion controls do (dctcp, cubic), which is no matter of links.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, StructOpsLinkInfo
from pytest_bpflink.selftests.conformance.checks import (
    FIRST,
    NONE,
    SECOND,
    exchange,
    update_wrongly,
)
from pytest_bpflink.selftests.conformance.stages import Congestion

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Link, Map

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:struct_ops", since="6.4", libbpf="1.2"),
]


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Congestion:
    return Congestion(request, "on_struct_ops")


@pytest.fixture
def link(stage: Congestion) -> Link:
    attached = stage.attach()
    assert stage.ran() == FIRST
    return attached


def _map(stage: Congestion, suffix: str) -> Map:
    return stage.object.map(f"congestion_{suffix}")


def test_update_ca(link: Link, stage: Congestion) -> None:
    """A map with the same name takes the place of the present one."""
    link.update_map(stage.second)
    assert stage.ran() == SECOND
    assert link.info == StructOpsLinkInfo(link.id, 0, stage.second.id)


def test_update_wrong(link: Link, stage: Congestion) -> None:
    """A map with another name is EINVAL."""
    _require_refused(link, stage, partial(link.update_map, _map(stage, "renamed")))


def test_mixed_links(link: Link, stage: Congestion) -> None:
    """A map that is for no link is EINVAL."""
    # libbpf would first register the map, as it has no link to wait for.
    update = partial(update_wrongly, link, _map(stage, "unlinked").fd)
    _require_refused(link, stage, update)


def test_incompl_cong_ops(stage: Congestion) -> None:
    """A map that lacks what every congestion control must have is EINVAL, and is not registered."""
    with pytest.raises(BpfError) as refused:
        stage.attach(_map(stage, "incomplete"))
    assert refused.value.errno == errno.EINVAL
    assert stage.ran() == NONE


def test_multi_links(link: Link, stage: Congestion) -> None:
    """A map has one link after the other; a second one beside it is EEXIST."""
    with pytest.raises(BpfError) as refused:
        stage.attach()
    assert refused.value.errno == errno.EEXIST
    link.destroy()
    assert stage.ran() == NONE
    again = stage.attach()
    assert stage.ran() == FIRST
    assert again.id != link.id


def test_link_replace(stage: Congestion) -> None:
    """A compare-exchange whose old map is not the present one is EPERM."""
    stage.attach(stage.second).destroy()  # before its first link a map is not ready: EINVAL
    link = stage.attach()
    with pytest.raises(BpfError) as refused:
        exchange(link, stage.second, old=stage.second)
    assert refused.value.errno == errno.EPERM
    assert stage.ran() == FIRST
    exchange(link, stage.second, old=stage.first)
    assert stage.ran() == SECOND


def _require_refused(link: Link, stage: Congestion, update: Callable[[], None]) -> None:
    before = link.info
    with pytest.raises(BpfError) as refused:
        update()
    assert refused.value.errno == errno.EINVAL
    assert link.info == before
    assert stage.ran() == FIRST
