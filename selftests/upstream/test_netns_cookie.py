"""The kernel's `netns_cookie`: the programs of three kinds of links know their network namespace.

Ported from tools/testing/selftests/bpf/prog_tests/netns_cookie.c (Linux 5.15; packets since 6.15),
with links throughout.

Beyond upstream, one link to a cgroup sees two namespaces, whose cookies differ.

Left out: sk_msg, whose program upstream attaches without a link.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import NetNs
from pytest_bpflink.selftests.conformance.cgroup_actions import ACTIONS
from pytest_bpflink.selftests.conformance.network_stages import send_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Cgroup, Link, Object

pytestmark = pytest.mark.guest_only

_SO_NETNS_COOKIE = 71


def _knows(program: str, since: str) -> pytest.MarkDecorator:
    return pytest.mark.bpf_requires(f"helper:bpf_get_netns_cookie:{program}", since=since)


@pytest.mark.parametrize(
    ("program", "action"),
    [
        pytest.param("sock_ops", "sock_ops", marks=_knows("sock_ops", "5.15")),
        pytest.param("cgroup_skb", "egress", marks=_knows("cgroup_skb", "6.15")),
    ],
)
def test_cgroup(
    program: str,
    action: str,
    cgroup: Cgroup,
    bpf_object: Callable[..., Object],
    bpf_link: Callable[..., Link],
) -> None:
    """A link to a cgroup sees the namespace that the cgroup's process is in."""
    loaded = bpf_object("progs/netns_cookie.bpf.c", only=[program])
    bpf_link(loaded.program(program), cgroup)
    cookies = []
    with NetNs.current() as here, NetNs.create() as fresh, cgroup.entered():
        for netns in (here, fresh, here):
            with netns.entered():
                ACTIONS[action]()
                cookies.append(_cookie())
            assert loaded.bss["seen"] == cookies[-1]
    assert cookies[0] == cookies[2] != cookies[1]


@pytest.mark.bpf_requires("link:tcx", since="6.6", libbpf="1.3")
@_knows("sched_cls", "6.15")
def test_tcx(
    netns: NetNs, bpf_object: Callable[..., Object], bpf_link: Callable[..., Link]
) -> None:
    """A link to a device sees the device's namespace."""
    loaded = bpf_object("progs/netns_cookie.bpf.c", only=["tcx_egress"])
    bpf_link(loaded.program("tcx_egress"), netns.lo)
    send_frame(netns.lo)
    with netns.entered():
        expected = _cookie()
    assert loaded.bss["seen"] == expected != _cookie()


def _cookie() -> int:
    with socket.socket() as any_socket:
        raw = any_socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(raw, sys.byteorder)
