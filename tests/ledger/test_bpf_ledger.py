"""`bpf_ledger`: the objects that a program under test holds, and the objects that it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import DescriptorHolder, LinkType, Object, ObjectHolder, PinHolder, ProgType
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs, BpfLedger, Cgroup, Link

OBJECT = ROOT / "selftests/progs/cgroup_egress.bpf.c"

# Attaches, or opens the link that an earlier daemon pinned; at `stop` removes the pin.
DAEMON = """
import os, sys
from pytest_bpflink import Cgroup, Link, Object
file, cgroup, pin = sys.argv[1:]
if os.path.exists(pin):
    link = Link.open(pin)
else:
    loaded = Object.open(file).load()
    link = loaded.program("egress").attach(Cgroup(cgroup))
    link.pin(pin)
print("ready", flush=True)
if sys.stdin.readline() == "stop\\n":
    os.unlink(pin)
os._exit(0)
"""


class Daemon:
    """A program under test, with a link."""

    def __init__(self, cgroup: Cgroup, bpffs: BpfFs) -> None:
        arguments = map(str, (OBJECT, cgroup.path, bpffs / "daemon"))
        self._process = subprocess.Popen(
            [sys.executable, "-c", DAEMON, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def end(self, how: str) -> None:
        """End it with `stop`, which cleans up, or `restart`, which doesn't."""
        self._process.communicate(f"{how}\n")


@pytest.fixture
def start(cgroup: Cgroup, bpffs: BpfFs) -> Iterator[Callable[[], Daemon]]:
    started: list[Daemon] = []

    def start() -> Daemon:
        started.append(Daemon(cgroup, bpffs))
        return started[-1]

    yield start
    for daemon in started:
        daemon._process.kill()
        daemon._process.communicate()


def test_objects_that_a_daemon_holds_are_gone_with_it(
    bpf_ledger: BpfLedger, start: Callable[[], Daemon]
) -> None:
    daemon = start()
    held = bpf_ledger.held_by(daemon.pid)
    (link,) = bpf_ledger.held_by(daemon.pid, "link")
    assert link.type is LinkType.CGROUP
    assert set(held) <= set(bpf_ledger.alive())
    assert {each.kind for each in held} == {"link", "program", "map"}

    daemon.end("stop")
    bpf_ledger.assert_gone(held)
    assert not link.is_alive
    assert link.holders() == ()
    assert bpf_ledger.held_by(daemon.pid) == ()


def test_link_survives_a_restart(
    bpf_ledger: BpfLedger, start: Callable[[], Daemon], bpffs: BpfFs
) -> None:
    daemon = start()
    (link,) = bpf_ledger.held_by(daemon.pid, "link")
    daemon.end("restart")
    assert link.holders() == (PinHolder(bpffs / "daemon"),)
    daemon = start()
    assert bpf_ledger.held_by(daemon.pid, "link") == (link,)
    with pytest.raises(AssertionError) as refused:
        bpf_ledger.assert_gone([link], within=0.05)
    descriptor, pin = link.holders()
    assert isinstance(descriptor, DescriptorHolder)
    assert descriptor.pid == daemon.pid
    assert str(refused.value) == (
        f"after 0.05 s there is still {link}, held by {descriptor}, {pin}"
    )


def test_watch_sees_objects_that_are_left(
    bpf_ledger: BpfLedger, start: Callable[[], Daemon], bpffs: BpfFs
) -> None:
    with bpf_ledger.watch() as watch:
        assert watch.alive() == ()
        start().end("stop")
    watch.assert_nothing_left()

    with bpf_ledger.watch() as watch:
        daemon = start()
        (link, *_), others = bpf_ledger.held_by(daemon.pid, "link"), watch.alive()
        assert link in others
        daemon.end("restart")
    with pytest.raises(AssertionError) as refused:
        watch.assert_nothing_left(within=0.4)
    # The link holds its program, and the program its maps.
    assert str(refused.value) == (
        f"after 0.4 s there is still {link}, held by pin {bpffs / 'daemon'}"
    )
    (program,) = (each for each in watch.alive() if each.type is ProgType.CGROUP_SKB)
    assert program.holders()[0] == ObjectHolder("link", link.id)


def test_watch_is_over_with_its_block(
    bpf_ledger: BpfLedger, bpf_object: Callable[..., Object]
) -> None:
    with bpf_ledger.watch() as watch:
        pass
    bpf_object(OBJECT)
    watch.assert_nothing_left(within=0)


def test_objects_of_strangers_are_not_watched(
    bpf_ledger: BpfLedger, link_of_a_stranger: Callable[[], int]
) -> None:
    with bpf_ledger.watch() as watch:
        number = link_of_a_stranger()
        assert number in [each.id for each in bpf_ledger.alive("link")]
        assert number not in [each.id for each in watch.alive() if each.kind == "link"]
    watch.assert_nothing_left()


@pytest.fixture
def link_of_a_stranger(
    bpf_object: Callable[..., Object], bpf_link: Callable[..., Link], cgroup: Cgroup
) -> Iterator[Callable[[], int]]:
    """Return a function that makes a link which a process outside this one's family holds."""
    program = bpf_object(OBJECT).program("egress")
    children: list[int] = []

    def attach() -> int:
        link = bpf_link(program, cgroup)
        # A daemon, without the environment by which the family would know it.
        code = "import os; os.fork() and os._exit(0); print(os.getpid(), flush=True);"
        code += "os.close(1); os.execlp('sleep', 'sleep', '60')"
        out = subprocess.run(
            [sys.executable, "-Ic", code],
            stdout=subprocess.PIPE,
            pass_fds=[link.fd],
            env={},
            check=True,
        )
        children.append(int(out.stdout))
        link.destroy()
        return link.id

    yield attach
    for child in children:
        os.kill(child, 9)
