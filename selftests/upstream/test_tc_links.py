"""The kernel's `tc_links`: links to a device beside classic filters, and when the device goes.

Ported from tools/testing/selftests/bpf/prog_tests/tc_links.c (Linux 6.6), with the names of its
subtests. Programs are numbered 1 to 4; "132" is the order they ran in.

Beyond upstream, an update of a link without its device is ENOLINK, and a link that was updated runs
where it stood before the filter.

Elsewhere: the other subtests (basic, before, after, revision, replace, invalid, prepend, append)
are asked of tcx, netkit and cgroups alike in test_link_order.py.

Left out: ingress and dev_chain0, which look at qdiscs that classic filters share.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, Direction, TcxLinkInfo
from pytest_bpflink.selftests.conformance.network_stages import send_frame
from pytest_bpflink.selftests.support.absence import VETH, made_or_absent
from pytest_bpflink.selftests.support.numbered import Hook, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Device, Link, NetNs

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:tcx", since="6.6", libbpf="1.3"),
]


@pytest.fixture(params=Direction, ids=lambda direction: direction.name.lower())
def direction(request: pytest.FixtureRequest) -> Direction:
    found: Direction = request.param
    return found


@pytest.fixture
def pair(netns: NetNs, request: pytest.FixtureRequest) -> tuple[Device, Device]:
    return made_or_absent(request.config, "veth", netns.veth, options=VETH)


@pytest.fixture
def hook(
    direction: Direction, pair: tuple[Device, Device], bpf_link: Callable[..., Link]
) -> Iterator[Hook]:
    """The first device's hook, and a frame that passes it."""
    name = f"tcx_{direction.name.lower()}"
    device, other = pair
    trigger = partial(send_frame, other if direction is Direction.INGRESS else device)
    with numbered(name) as loaded:
        yield Hook(loaded, name, partial(bpf_link, target=device), trigger)


def test_chain_mixed(hook: Hook, direction: Direction, pair: tuple[Device, Device]) -> None:
    """A link runs before a classic filter, also when it is updated; without it the filter runs."""
    with pair[0].tc_attach(hook.program(1), direction=direction):
        link = hook.attach(2)
        assert hook.order() == "21"
        hook.attach(3)
        assert hook.order() == "231"
        link.update(hook.program(4))
        assert hook.order() == "431"
        link.detach()
        assert hook.order() == "31"
    assert hook.order() == "3"


def test_dev_cleanup(hook: Hook, pair: tuple[Device, Device]) -> None:
    """When their device goes, four links are as if they were detached."""
    links = [hook.attach(number) for number in (1, 2, 3, 4)]
    assert hook.order() == "1234"
    pair[0].remove()
    _require_detached(links, hook)


def test_dev_mixed(hook: Hook, direction: Direction, pair: tuple[Device, Device]) -> None:
    """A classic filter, which goes with its device, does not hold links on it."""
    links = [hook.attach(number) for number in (1, 2)]
    pair[0].tc_attach(hook.program(3), direction=direction)
    assert hook.order() == "123"
    pair[0].remove()
    _require_detached(links, hook)


def _require_detached(links: list[Link], hook: Hook) -> None:
    for link in links:
        info = link.info
        assert isinstance(info, TcxLinkInfo)
        assert info.ifindex == 0
        with pytest.raises(BpfError) as refused:
            link.update(hook.program(4))
        assert refused.value.errno == errno.ENOLINK
        link.detach()
