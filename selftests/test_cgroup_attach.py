"""Links to cgroups beside and below programs attached without a link, and how many fit.

Behaviour of tools/testing/selftests/bpf/prog_tests/{cgroup_attach_multi,cgroup_attach_override}.c
(Linux 4.15, 4.10), with links where upstream has none. Programs are numbered 1 to 4; "132" is the
order they ran in.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags, AttachType, BpfError
from pytest_bpflink.selftests.support.numbered import Hook, datagram_from, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Link

pytestmark = pytest.mark.guest_only

_EGRESS = AttachType.CGROUP_INET_EGRESS
_MOST = 64  # BPF_CGROUP_MAX_PROGS


@pytest.fixture
def child(cgroup: Cgroup) -> Cgroup:
    return cgroup.create("child")


@pytest.fixture
def hook(child: Cgroup, bpf_link: Callable[..., Link]) -> Iterator[Hook]:
    """The child's hook for egress."""
    with numbered("cgroup") as loaded:
        yield Hook(loaded, "cgroup", bpf_link, partial(datagram_from, child))


def test_links_above_run_after(hook: Hook, cgroup: Cgroup, child: Cgroup) -> None:
    """The child's links run first, each cgroup's in the order of attaching."""
    for number, where in ((1, cgroup), (2, child), (3, cgroup), (4, child)):
        hook.attach(number, target=where)
    assert hook.order() == "2413"


def test_link_below_overridable(hook: Hook, cgroup: Cgroup, child: Cgroup) -> None:
    """A link in the child takes the place of the parent's program with ALLOW_OVERRIDE."""
    cgroup.attach(hook.program(1), AttachFlags.ALLOW_OVERRIDE)
    assert hook.order() == "1"
    link = hook.attach(2, target=child)
    assert hook.order() == "2"
    link.detach()
    assert hook.order() == "1"
    cgroup.detach(hook.program(1))
    assert hook.order() == ""


def test_link_beside_overridable(hook: Hook, child: Cgroup) -> None:
    """A link beside a program with ALLOW_OVERRIDE is EPERM, and so is the program beside a link."""
    child.attach(hook.program(1), AttachFlags.ALLOW_OVERRIDE)
    with pytest.raises(BpfError) as refused:
        hook.attach(2, target=child)
    assert refused.value.errno == errno.EPERM
    assert hook.order() == "1"
    child.detach(hook.program(1))

    hook.attach(2, target=child)
    with pytest.raises(BpfError) as refused:
        child.attach(hook.program(1), AttachFlags.ALLOW_OVERRIDE)
    assert refused.value.errno == errno.EPERM
    assert hook.order() == "2"


def test_link_below_exclusive(hook: Hook, cgroup: Cgroup, child: Cgroup) -> None:
    """A link below a program without flags is EPERM."""
    cgroup.attach(hook.program(1))
    with pytest.raises(BpfError) as refused:
        hook.attach(2, target=child)
    assert refused.value.errno == errno.EPERM
    assert hook.order() == "1"
    cgroup.detach(hook.program(1))


def test_links_among_multi(hook: Hook, cgroup: Cgroup, child: Cgroup) -> None:
    """Links and programs with ALLOW_MULTI run in the order of attaching, the child's first."""
    cgroup.attach(hook.program(1), AttachFlags.ALLOW_MULTI)
    hook.attach(2, target=child)
    child.attach(hook.program(3), AttachFlags.ALLOW_MULTI)
    hook.attach(4, target=child)
    assert hook.order() == "2341"

    with pytest.raises(BpfError) as refused:
        child.detach(hook.program(4))  # which a link holds
    assert refused.value.errno == errno.ENOENT
    child.detach(hook.program(3))
    assert hook.order() == "241"
    cgroup.detach(hook.program(1))


def test_as_many_as_fit(hook: Hook, child: Cgroup) -> None:
    """A cgroup holds 64 programs of an attach type; one more link is E2BIG."""
    links = [hook.attach(1, target=child) for _ in range(_MOST)]
    with pytest.raises(BpfError) as refused:
        hook.attach(2, target=child)
    assert refused.value.errno == errno.E2BIG
    assert len(child.attached(_EGRESS).prog_ids) == _MOST

    links[0].detach()
    hook.attach(2, target=child)
    assert len(child.attached(_EGRESS).prog_ids) == _MOST
