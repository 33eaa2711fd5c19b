"""Several links on one hook: the order that their programs run in, and which links are refused.

Behaviour of tools/testing/selftests/bpf/prog_tests/{tc_links,tc_netkit,cgroup_mprog_opts,
cgroup_mprog_ordering,netfilter_link_attach}.c (Linux 6.6, 6.7, 6.17, 6.17, 6.4), seen from the
programs that ran and not from a query.

Beyond upstream, netkit's peer and cgroups are asked what upstream asks of tcx alone.

Elsewhere: links beside classic filters and on a device that goes are in upstream/test_tc_links.py.

Programs are numbered 1 to 4; "132" is the order they ran in.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachFlags, BpfError
from pytest_bpflink.selftests.conformance.network_stages import send_frame
from pytest_bpflink.selftests.support.absence import VETH, made_or_absent
from pytest_bpflink.selftests.support.numbered import Hook, datagram_from, numbered
from pytest_bpflink.selftests.support.witness import datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Device, Link, NetNs

pytestmark = pytest.mark.guest_only

BEFORE, AFTER, REPLACE = AttachFlags.BEFORE, AttachFlags.AFTER, AttachFlags.REPLACE

_AF_INET, _LOCAL_OUT = 2, 3


_TCX = pytest.mark.bpf_requires("link:tcx", since="6.6", libbpf="1.3")
_NETKIT = pytest.mark.bpf_requires("link:netkit", since="6.7", libbpf="1.3")
_MPROG = pytest.mark.bpf_requires("cgroup:revision", since="6.17")


@pytest.fixture
def hook(request: pytest.FixtureRequest, bpf_link: Callable[..., Link]) -> Iterator[Hook]:
    """The hook that the test's parameter names."""
    name: str = request.param
    with numbered(name) as loaded:
        make = _on_cgroup if name == "cgroup" else _on_device
        target, trigger = make(request, name)
        yield Hook(loaded, name, partial(bpf_link, target=target), trigger)


def _on_device(request: pytest.FixtureRequest, name: str) -> tuple[object, Callable[[], object]]:
    pair = _pair(request, name)
    sender = pair[0] if name in {"tcx_egress", "netkit_primary"} else pair[1]
    return pair[0], partial(send_frame, sender)


def _pair(request: pytest.FixtureRequest, name: str) -> tuple[Device, Device]:
    netns: NetNs = request.getfixturevalue("netns")
    if name.startswith("netkit"):
        return netns.netkit()  # the mark has found the kind
    return made_or_absent(request.config, "veth", netns.veth, options=VETH)


def _on_cgroup(request: pytest.FixtureRequest, _name: str) -> tuple[object, Callable[[], object]]:
    cgroup: Cgroup = request.getfixturevalue("cgroup")
    return cgroup, partial(datagram_from, cgroup)


ordered = pytest.mark.parametrize(
    "hook",
    [
        pytest.param("tcx_ingress", marks=_TCX),
        pytest.param("tcx_egress", marks=_TCX),
        pytest.param("netkit_primary", marks=_NETKIT),
        pytest.param("netkit_peer", marks=_NETKIT),
        pytest.param("cgroup", marks=_MPROG),
    ],
    indirect=True,
)


@ordered
def test_appends(hook: Hook) -> None:
    """Without flags each link is appended; a link that goes leaves the others in their order."""
    _first, second, third = (hook.attach(number) for number in (1, 2, 3))
    assert hook.order() == "123"
    second.destroy()
    assert hook.order() == "13"
    third.detach()
    assert hook.order() == "1"


@ordered
def test_before_and_after(hook: Hook) -> None:
    """A link stands before or after another link, or before or after all."""
    first = hook.attach(1)
    hook.attach(2, flags=BEFORE)
    assert hook.order() == "21"
    hook.attach(3, flags=AFTER)
    assert hook.order() == "213"
    hook.attach(4, flags=BEFORE, relative=first)
    assert hook.order() == "2413"


@ordered
def test_after_a_link(hook: Hook) -> None:
    """A link after the first of two links runs between them."""
    first = hook.attach(1)
    hook.attach(2)
    hook.attach(3, flags=AFTER, relative=first)
    assert hook.order() == "132"


@ordered
def test_update_keeps_the_place(hook: Hook) -> None:
    """An update puts the new program where the old one stood."""
    hook.attach(1)
    second = hook.attach(2)
    hook.attach(3)
    second.update(hook.program(4))
    assert hook.order() == "143"


@ordered
def test_revision(hook: Hook) -> None:
    """A link that expects another revision than the present one is ESTALE; the first one is 1."""
    hook.attach(1, expected_revision=1)
    for wrong in (1, 3):
        with pytest.raises(BpfError) as refused:
            hook.attach(2, expected_revision=wrong)
        assert refused.value.errno == errno.ESTALE
    assert hook.order() == "1"
    hook.attach(2, expected_revision=2)
    assert hook.order() == "12"


@ordered
def test_update_is_a_revision(hook: Hook) -> None:
    """An update makes a revision: a link that expects the one before is ESTALE."""
    first = hook.attach(1)
    first.update(hook.program(2))
    with pytest.raises(BpfError) as refused:
        hook.attach(3, expected_revision=2)
    assert refused.value.errno == errno.ESTALE
    hook.attach(3, expected_revision=3)
    assert hook.order() == "23"


@pytest.mark.usefixtures("own_target")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("netkit_primary", marks=_NETKIT),
        pytest.param("netkit_peer", marks=_NETKIT),
    ],
)
def test_device_goes(
    kind: str, request: pytest.FixtureRequest, bpf_link: Callable[..., Link]
) -> None:
    """When a device with several links goes, each of them is as if it were detached."""
    pair = _pair(request, kind)
    with numbered(kind) as loaded:
        links = [bpf_link(loaded.program(f"{kind}_{number}"), pair[0]) for number in (1, 2, 3)]
        pair[0].remove()
        assert [getattr(link.info, "ifindex", None) for link in links] == [0, 0, 0]
        for link in links:
            with pytest.raises(BpfError) as refused:
                link.update(loaded.program(f"{kind}_4"))
            assert refused.value.errno == errno.ENOLINK
            link.detach()


@ordered
def test_relative_to_what_is_not_there(hook: Hook) -> None:
    """To attach before a link that has left the hook is ENOENT."""
    first = hook.attach(1)
    gone = hook.attach(2)
    gone.detach()
    with pytest.raises(BpfError) as refused:
        hook.attach(3, flags=BEFORE, relative=gone)
    assert refused.value.errno == errno.ENOENT
    assert hook.order() == "1"
    assert first.id


@ordered
def test_impossible_flags(hook: Hook, request: pytest.FixtureRequest) -> None:
    """A new link can't replace a program, nor stand before and after one at once."""
    first = hook.attach(1)
    of_cgroup = "cgroup" in request.node.callspec.id
    for flags, relative, expected in (
        (REPLACE, None, errno.EINVAL if of_cgroup else errno.ENOENT),
        (BEFORE | AFTER, first, errno.EINVAL if of_cgroup else errno.ERANGE),
    ):
        with pytest.raises(BpfError) as refused:
            hook.attach(2, flags=flags, relative=relative)
        assert refused.value.errno == expected
    assert hook.order() == "1"


# Netfilter: by priority.


@pytest.mark.bpf_requires(
    "link:netfilter", since="6.4", config="CONFIG_NETFILTER_BPF_LINK", libbpf="1.3"
)
def test_netfilter_priorities(netns: NetNs, bpf_link: Callable[..., Link]) -> None:
    """The lowest priority runs first, whenever it was attached; one priority holds one link."""
    with numbered("netfilter") as loaded:
        attach = partial(bpf_link, target=netns, pf=_AF_INET, hooknum=_LOCAL_OUT)
        hook = Hook(loaded, "netfilter", attach, partial(_datagram_in, netns))
        hook.attach(1, priority=10)
        second = hook.attach(2, priority=-10)
        hook.attach(3, priority=0)
        assert hook.order() == "231"

        with pytest.raises(BpfError) as refused:
            hook.attach(4, priority=-10)
        assert refused.value.errno == errno.EBUSY
        assert hook.order() == "231"

        second.detach()
        hook.attach(4, priority=-10)
        assert hook.order() == "431"


@pytest.mark.bpf_requires(
    "link:netfilter", since="6.4", config="CONFIG_NETFILTER_BPF_LINK", libbpf="1.3"
)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"pf": 1}, errno.EAFNOSUPPORT, id="pf_unix"),
        pytest.param({"hooknum": 5}, errno.EPROTO, id="hooknum_too_high"),
        pytest.param({"priority": -(2**31)}, errno.ERANGE, id="lowest_priority"),
        pytest.param({"priority": 2**31 - 1}, errno.ERANGE, id="highest_priority"),
        pytest.param({"flags": 2}, errno.EOPNOTSUPP, id="unknown_flag"),
        pytest.param({"flags": 1, "priority": -400}, errno.ERANGE, id="before_defragmentation"),
    ],
)
def test_netfilter_refuses(
    netns: NetNs, bpf_link: Callable[..., Link], options: dict[str, int], expected: int
) -> None:
    """Wrong values in an attachment are refused, each with an errno that tells the mistake."""
    where = {"pf": _AF_INET, "hooknum": _LOCAL_OUT} | options
    with numbered("netfilter") as loaded:
        with pytest.raises(BpfError) as refused:
            bpf_link(loaded.program("netfilter_1"), netns, **where)
        assert refused.value.errno == expected


def _datagram_in(netns: NetNs) -> None:
    # The socket sends to itself: an ICMP message about a closed port would pass the hook, too.
    with netns.entered(), datagram_socket() as own:
        own.bind(("127.0.0.1", 0))
        own.sendto(b"bpflink", own.getsockname())
