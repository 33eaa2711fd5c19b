"""The probes against kernels whose features are known: what is there, and what is only accepted."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags, BpfError, features
from pytest_bpflink.selftests.numbered import Hook, datagram_from, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, KernelInfo, Link

# In guests the kernels are a distribution's own; on a host anything can be refused or backported.
pytestmark = pytest.mark.guest_only


@pytest.mark.parametrize(
    ("feature", "since"),
    [
        ("link:raw_tracepoint", "5.7"),
        ("link:cgroup", "5.7"),
        ("link:netns", "5.9"),
        ("link:xdp", "5.9"),
        ("link:perf_event", "5.15"),
        ("link:netfilter", "6.4"),
        ("link:tcx", "6.6"),
        ("prog:cgroup_skb", "4.10"),
        ("prog:netfilter", "6.4"),
    ],
)
def test_probe(feature: str, since: str, bpf_kernel: KernelInfo) -> None:
    """A probe finds a feature on the kernels that have it, and on no other."""
    absence = features.absence(feature)
    if absence is not None and absence.hint.startswith("needs libbpf"):
        pytest.skip(str(absence))
    is_new_enough = bpf_kernel.version >= features.version_tuple(since)
    assert (absence is None) is is_new_enough, absence


@pytest.fixture
def child(cgroup: Cgroup) -> Cgroup:
    return cgroup.create("child")


@pytest.fixture
def hook(child: Cgroup, bpf_link: Callable[..., Link]) -> Iterator[Hook]:
    """Egress of the child."""
    with numbered("cgroup") as loaded:
        yield Hook(loaded, "cgroup", bpf_link, partial(datagram_from, child))


# Releases say nothing here: of Debian's 6.12 kernels 6.12.107 ignores a wrong revision, and takes
# PREORDER without a link only; 6.12.117 has both, which came with 6.17 and 6.15.


@pytest.mark.bpf_requires("link:cgroup", libbpf="1.6")
def test_revision(hook: Hook, cgroup: Cgroup) -> None:
    """The probe finds revisions exactly where a link that expects a wrong one is refused."""
    try:
        hook.attach(1, target=cgroup, expected_revision=1000)
    except BpfError as error:
        honoured = error.errno == errno.ESTALE
    else:
        honoured = False
        assert hook.order() == "1"
    assert (features.absence("cgroup:revision") is None) is honoured


@pytest.mark.bpf_requires("link:cgroup", libbpf="1.6")
def test_preorder(hook: Hook, cgroup: Cgroup, child: Cgroup) -> None:
    """The probe finds PREORDER exactly where a parent's link with it runs first."""
    hook.attach(1, target=child)
    try:
        hook.attach(2, target=cgroup, flags=AttachFlags.PREORDER)
    except BpfError as error:
        refusal = error.errno
    else:
        refusal = 0
    assert refusal in {0, errno.EINVAL}
    assert (features.absence("cgroup:preorder") is None) is (hook.order() == "21")
