"""Links to maps of sockets beside programs attached without a link.

Behaviour of tools/testing/selftests/bpf/prog_tests/sockmap_basic.c (Linux 6.10), seen from the
programs that ran.

Elsewhere: life, updates and errnos of one link are in the conformance rows sk_msg and sk_skb.

Left out: what programs do with sockets and messages, which is no matter of links.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, BpfError
from pytest_bpflink.binding import libbpf
from pytest_bpflink.selftests.conformance.network_stages import Sockets

if TYPE_CHECKING:
    from pytest_bpflink import Program

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:sockmap", since="6.10", libbpf="1.5"),
]

_FIRST, _SECOND, _NONE = (True, False), (False, True), (False, False)


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Sockets:
    """A map of sockets, and a message through a socket in it."""
    return Sockets(request, "on_sk_msg", sends=True)


def test_link_replaces_program(stage: Sockets) -> None:
    """A link replaces a program without a link, which does not come back when the link ends."""
    _attach(stage, stage.object.program("on_sk_msg"))
    assert stage.ran() == _FIRST
    link = stage.attach(stage.object.program("on_sk_msg_alt"))
    assert stage.ran() == _SECOND
    link.destroy()
    assert stage.ran() == _NONE


def test_program_beside_link(stage: Sockets) -> None:
    """To attach without a link beside a link is EBUSY, and so is to detach the link's program."""
    stage.attach()
    with pytest.raises(BpfError) as refused:
        _attach(stage, stage.object.program("on_sk_msg_alt"))
    assert refused.value.errno == errno.EBUSY
    with pytest.raises(BpfError) as refused:
        _detach(stage, stage.object.program("on_sk_msg"))
    assert refused.value.errno == errno.EBUSY
    assert stage.ran() == _FIRST


def test_link_beside_link(stage: Sockets) -> None:
    """A second link of the same attach type is EBUSY, until the first is detached."""
    link = stage.attach()
    with pytest.raises(BpfError) as refused:
        stage.attach(stage.object.program("on_sk_msg_alt"))
    assert refused.value.errno == errno.EBUSY
    link.detach()
    stage.attach(stage.object.program("on_sk_msg_alt"))
    assert stage.ran() == _SECOND


def _attach(stage: Sockets, program: Program) -> None:
    arguments = program.fd, stage.target.fd, AttachType.SK_MSG_VERDICT, 0
    libbpf.call("bpf_prog_attach", *arguments, doing=f"attach {program.name} without a link")


def _detach(stage: Sockets, program: Program) -> None:
    arguments = program.fd, stage.target.fd, AttachType.SK_MSG_VERDICT
    libbpf.call("bpf_prog_detach2", *arguments, doing=f"detach {program.name}")
