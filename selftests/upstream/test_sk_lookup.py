"""The kernel's `sk_lookup`: several links to one network namespace, and what their programs choose.

Ported from tools/testing/selftests/bpf/prog_tests/sk_lookup.c (Linux 5.9), as far as links go, with
the names of its subtests.

Beyond upstream, an update changes the verdict for the next connection, a detached link has none,
and a namespace takes 64 links.

Elsewhere: life, updates and errnos of one link are in the conformance suite's row "sk_lookup".

Left out: what a program may read of a packet and assign to it, reuseport, UDP and IPv6, which are
no matter of links.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, BpfError, NetnsLinkInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Link, NetNs, Object

pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.bpf_requires("attach:sk_lookup", since="5.9"),
]

_ASKED, _CHOSEN = ("127.0.0.1", 7007), ("127.0.0.2", 8008)
_MOST = 64  # MAX_SK_LOOKUP_PROGS


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/sk_lookup.bpf.c")


@pytest.fixture
def attach(loaded: Object, netns: NetNs, bpf_link: Callable[..., Link]) -> Callable[[str], Link]:
    """Attach a program by its name to the test's namespace."""
    return lambda name: bpf_link(loaded.program(name), netns)


@pytest.fixture
def connect(loaded: Object, netns: NetNs) -> Iterator[Callable[[], str]]:
    """Connect, and say which server accepts, "asked" or "chosen", or "refused"."""
    with netns.entered():
        asked, chosen = socket.create_server(_ASKED), socket.create_server(_CHOSEN)
    loaded.map("servers")[bytes(4)] = struct.pack("=Q", chosen.fileno())

    def connected() -> str:
        with netns.entered(), socket.socket() as client:
            client.settimeout(3)
            try:
                client.connect(_ASKED)
            # An emulated s390x discards resets: it gives them a wrong checksum.
            except (ConnectionRefusedError, TimeoutError):
                return "refused"
            ((server,), _, _) = select.select([asked, chosen], [], [], 5)
            server.accept()[0].close()
            return "asked" if server is asked else "chosen"

    with asked, chosen:
        yield connected


def test_query_lookup_prog(attach: Callable[[str], Link], loaded: Object, netns: NetNs) -> None:
    """A query names the program of each link, in the order of attaching, and none detached."""
    names = ("pass_1", "pass_1", "drop_1")
    links = [attach(name) for name in names]
    ids = [loaded.program(name).id for name in names]
    for link, prog_id in zip(links, ids, strict=True):
        assert link.info == NetnsLinkInfo(link.id, prog_id, netns.ino, AttachType.SK_LOOKUP)
    assert netns.attached(AttachType.SK_LOOKUP) == tuple(ids)

    links[0].detach()

    assert links[0].info == NetnsLinkInfo(links[0].id, ids[0], 0, AttachType.SK_LOOKUP)
    assert netns.attached(AttachType.SK_LOOKUP) == tuple(ids[1:])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("pass", "pass", "asked"),
        ("drop", "drop", "refused"),
        ("pass", "drop", "refused"),
        ("drop", "pass", "refused"),
        ("pass", "redir", "chosen"),
        ("redir", "pass", "chosen"),
        ("drop", "redir", "chosen"),
        ("redir", "drop", "chosen"),
        ("redir", "redir", "chosen"),
    ],
)
def test_multi_prog(
    first: str,
    second: str,
    expected: str,
    attach: Callable[[str], Link],
    connect: Callable[[], str],
    loaded: Object,
) -> None:
    """Both programs run; a socket that one chose wins over a drop, and a drop over passing."""
    attach(f"{first}_1")
    attach(f"{second}_2")
    assert connect() == expected
    assert all(loaded.bss["runs"])


def test_update(attach: Callable[[str], Link], connect: Callable[[], str], loaded: Object) -> None:
    """The verdict is that of the programs that links have when the connection is made."""
    attach("pass_1")
    link = attach("drop_2")
    assert connect() == "refused"
    link.update(loaded.program("redir_2"))
    assert connect() == "chosen"
    link.detach()
    assert connect() == "asked"


def test_as_many_as_fit(
    attach: Callable[[str], Link], connect: Callable[[], str], loaded: Object
) -> None:
    """One link more than 64 is E2BIG, until one of them is detached."""
    links = [attach("pass_1") for _ in range(_MOST)]
    with pytest.raises(BpfError) as refused:
        attach("drop_2")
    assert refused.value.errno == errno.E2BIG
    assert connect() == "asked"
    assert loaded.bss["runs"][0] >= _MOST
    links[0].detach()
    attach("drop_2")
    assert connect() == "refused"
