"""The counter while its daemon starts, crashes, restarts and stops."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, Link, eventually

if TYPE_CHECKING:
    from conftest import Daemon
    from pytest_bpflink import BpfFs, Cgroup

EGRESS = AttachType.CGROUP_INET_EGRESS
HELLO = 20 + 8 + len(b"hello")  # bytes of a packet that send() sends, from the IP header on

# A daemon with a bug. A test that must catch the bug has to fail with this daemon (strict).
ORPHANING = pytest.param(
    "egress-counter-orphaning",
    marks=pytest.mark.xfail(
        reason="it attaches without a link", raises=AssertionError, strict=True
    ),
)
both = pytest.mark.parametrize("daemon", ["egress-counter", ORPHANING], indirect=True)


def send(cgroup: Cgroup, packets: int) -> None:
    """Send datagrams from inside a cgroup to a port where nobody listens."""
    with cgroup.entered(), socket.socket(type=socket.SOCK_DGRAM) as sender:
        for _ in range(packets):
            sender.sendto(b"hello", ("127.0.0.1", 9))


def test_counts_packets(daemon: Daemon, cgroup: Cgroup) -> None:
    daemon.start()
    send(cgroup, packets=3)
    assert daemon.count() == 3


def test_counts_bytes_of_packets_that_are_long_enough(
    daemon: Daemon, cgroup: Cgroup, bpffs: BpfFs
) -> None:
    daemon.start()
    with Link.open(bpffs / "link") as link:
        variables = link.program.maps
        send(cgroup, packets=2)
        assert variables[".bss"]["bytes"] == 2 * HELLO

        variables[".data"]["smallest"] = HELLO + 1
        send(cgroup, packets=1)
        assert variables[".bss"]["bytes"] == 2 * HELLO
    assert daemon.count() == 2


def test_counts_on_while_the_daemon_is_down(daemon: Daemon, cgroup: Cgroup) -> None:
    daemon.start()
    daemon.kill()
    send(cgroup, packets=2)
    assert daemon.count() == 2


def test_restarted_daemon_takes_the_link_over(daemon: Daemon, bpffs: BpfFs) -> None:
    daemon.start()
    with Link.open(bpffs / "link") as link:
        first = link.info
    daemon.kill()

    daemon.start()

    with Link.open(bpffs / "link") as link:
        assert link.id == first.id
        assert link.info.prog_id != first.prog_id  # now the new daemon's, perhaps a newer version


@both
def test_restarted_daemon_counts_each_packet_once(daemon: Daemon, cgroup: Cgroup) -> None:
    daemon.start()
    daemon.kill()
    daemon.start()

    assert len(cgroup.attached(EGRESS).prog_ids) == 1
    send(cgroup, packets=2)
    assert daemon.count() == 2


@both
def test_stopped_counter_leaves_no_program_behind(daemon: Daemon, cgroup: Cgroup) -> None:
    daemon.start()
    daemon.stop()

    # The kernel may take a moment to end a link whose last pin was removed.
    eventually(lambda: not cgroup.attached(EGRESS).prog_ids, what="the program is detached")
