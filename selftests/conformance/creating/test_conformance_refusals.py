"""Creating a link of any type: each mistake in the call is refused, and leaves nothing behind.

The calls are made by hand, as libbpf makes no wrong ones. Each test begins with a right one, which
shows that the kernel has the row.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, Link, LinkType, Map, eventually, link_ids
from pytest_bpflink.selftests.conformance.checks import FIRST, NONE, each, every_row, exists
from pytest_bpflink.selftests.conformance.creating.call import (
    inside,
    open_raw_tracepoint,
    right_call,
)
from pytest_bpflink.selftests.conformance.creating.mistakes import creatable, mistakes_of
from pytest_bpflink.selftests.conformance.network_stages import OnDevice, OnDummy
from pytest_bpflink.selftests.conformance.outcomes import OK
from pytest_bpflink.selftests.conformance.stages import InCgroup

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.creating.mistakes import Mistake
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage
    from pytest_bpflink.selftests.support.link_create import LinkCreate

pytestmark = pytest.mark.guest_only

# Rows whose links the same code of the kernel makes as those of other rows.
_LIKE_OTHERS = frozenset(("fexit", "fmod_ret", "lsm", "kretprobe", "uprobe", "uretprobe", "sk_skb"))
_LIKE_OTHERS |= {"xdp-generic", "xdp-dummy", "sk_lookup", "tcx_egress", "netkit_peer"}

one_of_each = each(lambda row: not row.brief and row.id not in _LIKE_OTHERS)


@every_row
def test_refused(link: Link, stage: Stage, row: Row, bpf_kernel: KernelInfo) -> None:
    """Each mistake has its errno; after all of them there is no new link, and no program runs.

    Then the call without a mistake attaches, if the command makes links of this type. So does a
    call with a value in a field that the kernel does not look at.
    """
    link.destroy()
    right = creatable(row)(bpf_kernel)
    with inside(stage):
        call = right_call(row, stage)
        before = set(link_ids())
        for mistake in mistakes_of(row):
            expected = mistake.errno(bpf_kernel) or right
            assert _result(call, row, stage, mistake) == expected, mistake.name
        assert set(link_ids()) == before
        assert stage.ran() == NONE
        if right == OK:
            assert _runs(call, stage)
        else:
            assert _result(call, row, stage) == right
    assert stage.ran() == NONE


@each(lambda row: row.id in {"raw_tp", "tp_btf", "fentry", "lsm"})
def test_opening_refused(link: Link, stage: Stage, row: Row) -> None:
    """The command that opens raw tracepoints takes a name from the programs without one only."""
    link.destroy()
    before = set(link_ids())
    right: dict[str, Any] = {
        "name": b"sys_enter" if row.id == "raw_tp" else None,
        "fd": stage.first.fd,
    }
    other = stage.of_other_type().fd
    is_named = row.id != "raw_tp"
    with open(os.devnull, "rb") as file:
        mistakes: list[tuple[dict[str, Any], int]] = [
            ({"fd": 2**32 - 1}, errno.EBADF),
            ({"fd": 2**32 - 1, "name": b"nowhere"}, errno.EBADF),
            ({"fd": file.fileno()}, errno.EINVAL),
            ({"fd": other}, errno.EINVAL),
            ({"name": b"nowhere"}, errno.EINVAL if is_named else errno.ENOENT),
            *([] if is_named else [({"name": None}, errno.EFAULT)]),
        ]
        for wrong, number in mistakes:
            with pytest.raises(BpfError) as refused:
                os.close(open_raw_tracepoint(**(right | wrong)))
            assert refused.value.errno == number, wrong
    assert set(link_ids()) == before
    assert stage.ran() == NONE
    if row.link_type is LinkType.RAW_TRACEPOINT:
        fd = open_raw_tracepoint(**right)
        assert stage.ran() == FIRST
        os.close(fd)
        assert stage.ran() == NONE


@one_of_each
def test_which_refusal_wins(link: Link, stage: Stage, row: Row, bpf_kernel: KernelInfo) -> None:
    """A call with two mistakes is refused for the first in the kernel's order."""
    link.destroy()
    right = creatable(row)(bpf_kernel)
    with inside(stage):
        call = right_call(row, stage)
        before = set(link_ids())
        for first, second in itertools.combinations(mistakes_of(row), 2):
            expected, other = (one.errno(bpf_kernel) or right for one in (first, second))
            is_told = {expected, other} - {OK} and expected != other
            if first.is_paired and second.is_paired and is_told and first.may_go_with(second):
                wins = expected or other
                assert _result(call, row, stage, first, second) == wins, (first.name, second.name)
        assert set(link_ids()) == before
    assert stage.ran() == NONE


@one_of_each
@pytest.mark.usefixtures("own_target")
def test_nothing_is_kept(link: Link, stage: Stage, row: Row) -> None:
    """After all refusals the program can be freed, and the target as well.

    A namespace that somebody holds keeps its links. A device that somebody holds is not removed:
    the command that removes it would not return. A cgroup that somebody holds is dying, and counted
    by its parent.
    """
    link.destroy()
    loaded = stage.renew()
    held = [("map" if isinstance(stage.first, Map) else "prog", stage.first.id)]
    if isinstance(stage.target, Map):
        held.append(("map", stage.target.id))
    with inside(stage):
        call = right_call(row, stage)
        for mistake in mistakes_of(row):
            _result(call, row, stage, mistake)
    if row.link_type is LinkType.NETNS:
        with stage.attach() as again:
            stage.end_target()
            eventually(lambda: _has_lost_target(again, row), what="the namespace is gone")
    loaded.close()
    eventually(lambda: not any(exists(*one) for one in held), what=f"{held} are gone")
    if isinstance(stage, InCgroup):
        parent = stage.target.path.parent
        before = _dying(parent)
        stage.end_target()
        eventually(lambda: _dying(parent) <= before, what="the cgroup is gone")
    elif isinstance(stage, OnDevice | OnDummy):
        stage.end_target()


def _has_lost_target(link: Link, row: Row) -> bool:
    info = link.info
    return all(getattr(info, name) == value for name, value in row.detached.items())


def _dying(cgroup: Path) -> int:
    """Return how many cgroups below one were removed, but are still held."""
    counts = dict(line.split() for line in (cgroup / "cgroup.stat").read_text().splitlines())
    return int(counts["nr_dying_descendants"])


def _result(right: LinkCreate, row: Row, stage: Stage, *mistakes: Mistake) -> int:
    """Make a call with some mistakes, end the link if there is one, and return the errno."""
    call = right.copy()
    for mistake in mistakes:
        mistake.make(call, row, stage)
    try:
        os.close(call.create())
    except BpfError as error:
        return error.errno or OK
    return OK


def _runs(call: LinkCreate, stage: Stage) -> bool:
    """Make a call, and say whether the program runs while the link's descriptor is open."""
    fd = call.create()
    with Link.from_fd(fd) as link:
        os.close(fd)
        stage.note(link.id)
        return stage.ran() == FIRST
