"""The kernel's `test_struct_ops_module`: the file of a link hangs up when the link is detached.

Ported from tools/testing/selftests/bpf/prog_tests/test_struct_ops_module.c (Linux 6.9; detach since
6.11), as far as links go, with TCP's congestion controls in place of upstream's test module.

Beyond upstream, nothing hangs up before, an update does not hang up, and every descriptor of the
link does when one of them detaches it.

Left out: loading programs and the values of members, which are no matter of links; a detach by the
kernel's side, which takes upstream's test module.
"""

from __future__ import annotations

import errno
import select
from functools import partial

import pytest

from pytest_bpflink import BpfError, Link
from pytest_bpflink.selftests.conformance.checks import NONE, SECOND
from pytest_bpflink.selftests.conformance.stages import Congestion
from pytest_bpflink.selftests.support.absence import made_or_absent

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("link:struct_ops", since="6.4", libbpf="1.2"),
]


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Congestion:
    return Congestion(request, "on_struct_ops")


def test_detach_link(stage: Congestion) -> None:
    link = stage.attach()
    with select.epoll() as waiting, Link.from_fd(link.fd) as other:
        watch = partial(_watch, waiting, link, other)
        made_or_absent(stage.request.config, "EPOLLHUP of links", watch, since="6.11")
        assert waiting.poll(0) == []
        link.update_map(stage.second)
        assert stage.ran() == SECOND
        assert waiting.poll(0) == []

        other.detach()

        hung_up = {(link.fd, select.EPOLLHUP), (other.fd, select.EPOLLHUP)}
        assert set(waiting.poll(0)) == hung_up
        assert stage.ran() == NONE
        link.detach()
        assert set(waiting.poll(0)) == hung_up


def _watch(waiting: select.epoll, *links: Link) -> None:
    for link in links:
        try:
            waiting.register(link.fd, select.EPOLLHUP)
        except PermissionError as error:
            raise BpfError(errno.EPERM, "wait for a link's file") from error
