"""The kernel's `token`: what a user namespace may do with links by the right of a BPF token.

Ported from tools/testing/selftests/bpf/prog_tests/token.c (Linux 6.9), as far as links go.

Beyond upstream, programs that a token let in are attached by links in the user namespace, of which
upstream makes none: they run, are updated and pinned, and no other program is accepted there.

Left out: tokens for maps and BTF, libbpf's ways to find a token, and the hooks of the LSM: no
matter of links.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, BpfError, Link, ProgType
from pytest_bpflink.selftests.conformance.checks import update_wrongly
from pytest_bpflink.selftests.support.absence import made_or_absent
from pytest_bpflink.selftests.support.delegation import as_delegate, require_tokens, token_create
from pytest_bpflink.selftests.support.link_create import link_create
from pytest_bpflink.selftests.support.path_fd import open_bpffs, pin_at, set_option
from pytest_bpflink.selftests.support.prog_load import prog_load
from pytest_bpflink.selftests.support.stranger import drop_privileges_of_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfFs, Cgroup

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

_XDP = ProgType.XDP, AttachType.XDP
_EGRESS = ProgType.CGROUP_SKB, AttachType.CGROUP_INET_EGRESS
_XDP_DROP, _XDP_PASS = 1, 2
_DELEGATES = {
    "delegate_cmds": "prog_load",
    "delegate_progs": "xdp:cgroup_skb",
    "delegate_attachs": "xdp:cgroup_inet_egress",
}
_LO = 1


@pytest.fixture(autouse=True)
def tokens(request: pytest.FixtureRequest, bpffs: BpfFs) -> None:
    """Skip the tests where the kernel has no tokens."""
    made_or_absent(request.config, "BPF token", partial(require_tokens, bpffs), since="6.9")


def test_prog_token() -> None:
    """Both the token and capabilities in the namespace are needed, and the token names the type."""

    def load(root: int) -> dict[str, str]:
        token = token_create(root)
        found = {
            "token": _result(partial(prog_load, *_XDP, _XDP_PASS, token=token)),
            "no token": _result(partial(prog_load, *_XDP, _XDP_PASS)),
            "another type": _result(
                partial(prog_load, ProgType.SCHED_CLS, AttachType(0), 0, token=token)
            ),
            "no token's descriptor": _result(partial(prog_load, *_XDP, _XDP_PASS, token=root)),
            "options": _result(lambda: set_option(open_bpffs(), "delegate_cmds", "any")),
        }
        drop_privileges_of_thread(keep=())
        return found | {
            "token, no capability": _result(partial(prog_load, *_XDP, _XDP_PASS, token=token)),
            "another token": _result(partial(token_create, root)),
        }

    assert as_delegate(load, **_DELEGATES) == {
        "token": "OK",
        "no token": "EPERM",
        "another type": "EPERM",
        "no token's descriptor": "EINVAL",
        "options": "EPERM",
        "token, no capability": "EPERM",
        "another token": "EPERM",
    }


def test_link_of_a_device() -> None:
    """A program that a token let in is attached to a device of the namespace, and updated."""

    def attach(root: int) -> dict[str, str]:
        token = token_create(root)
        drop, let_pass = (
            prog_load(*_XDP, verdict, token=token) for verdict in (_XDP_DROP, _XDP_PASS)
        )
        found = {"before": _passes_lo()}
        with link_create(drop, AttachType.XDP, target=_LO) as link:
            found["attached"] = _passes_lo()
            found["by id"] = _result(partial(Link.by_id, link.id))
            update_wrongly(link, let_pass)
            found["updated"] = _passes_lo()
            update_wrongly(link, drop)
            found["pinned"] = _result(partial(pin_at, link.fd, "link", below=root))
        found["only pinned"] = _passes_lo()
        os.unlink("link", dir_fd=root)
        return found | {"unpinned": _passes_lo()}

    assert as_delegate(attach, **_DELEGATES) == {
        "before": "passes",
        "attached": "dropped",
        "by id": "EPERM",
        "updated": "passes",
        "pinned": "OK",
        "only pinned": "dropped",
        "unpinned": "passes",
    }


def test_link_of_a_cgroup(cgroup: Cgroup) -> None:
    """A link to a cgroup needs the token of its program, and capabilities in the namespace."""
    stranger = prog_load(*_EGRESS, 0)

    def attach(root: int) -> dict[str, str]:
        drop = prog_load(*_EGRESS, 0, token=token_create(root))
        make = partial(link_create, drop, _EGRESS[1], target=cgroup.fileno())
        found = {"before": _passes_lo()}
        with make():
            found["attached"] = _passes_lo()
        found["destroyed"] = _passes_lo()
        found["a program without a token"] = _result(
            partial(link_create, stranger, _EGRESS[1], target=cgroup.fileno())
        )
        drop_privileges_of_thread(keep=())
        return found | {"no capability": _result(make), "after": _passes_lo()}

    with cgroup.entered():
        found = as_delegate(attach, **_DELEGATES)
    os.close(stranger)
    assert found == {
        "before": "passes",
        "attached": "dropped",
        "destroyed": "passes",
        "a program without a token": "EPERM",
        "no capability": "EPERM",
        "after": "passes",
    }


def _result(ask: Callable[[], object]) -> str:
    try:
        ask()
    except BpfError as error:
        return errno.errorcode[error.errno or 0]
    return "OK"


def _passes_lo() -> str:
    """Whether a datagram over loopback arrives: "passes" or "dropped"."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(("127.0.0.1", 0))
        own.settimeout(0.2)
        with contextlib.suppress(OSError):
            own.sendto(b"bpflink", own.getsockname())
            own.recv(16)
            return "passes"
    return "dropped"
