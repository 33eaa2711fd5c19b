"""The relay between execnet and a guest, with a Python on this host in the guest's place."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import execnet
import pytest

from pytest_bpflink.vm.machines import gateway
from tests.support.processes import children_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE = 10.0


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a "guest" whose Python waits at the pipes in `tmp_path`, as a real guest's does."""
    with ExitStack() as undo:

        def opened(name: str, mode: int) -> int:
            descriptor = os.open(tmp_path / name, mode)
            undo.callback(os.close, descriptor)
            return descriptor

        for name in (gateway.TO_GUEST, gateway.FROM_GUEST):
            os.mkfifo(tmp_path / name)
        # Opening both ends here keeps either from waiting; only the guest keeps its ends open.
        with ExitStack() as early:
            both = [os.open(tmp_path / gateway.FROM_GUEST, os.O_RDWR)]
            both.append(os.open(tmp_path / gateway.TO_GUEST, os.O_RDWR))
            for descriptor in both:
                early.callback(os.close, descriptor)
            reading = os.open(tmp_path / gateway.TO_GUEST, os.O_RDONLY)
            early.callback(os.close, reading)
            writing = os.open(tmp_path / gateway.FROM_GUEST, os.O_WRONLY)
            early.callback(os.close, writing)
            command = [sys.executable, "-u", "-c", gateway.BOOTSTRAP]
            process = subprocess.Popen(command, stdin=reading, stdout=writing)
            undo.callback(process.wait)
            undo.callback(process.kill)
            opened(gateway.TO_GUEST, os.O_WRONLY)
            opened(gateway.FROM_GUEST, os.O_RDONLY)
        yield process


@pytest.fixture
def group() -> Iterator[execnet.Group]:
    """Make an execnet group that ends with the test."""
    made = execnet.Group()
    yield made
    made.terminate(timeout=DEADLINE)


def relay(directory: Path, *options: str) -> list[str]:
    return [sys.executable, "-S", "-E", gateway.__file__, str(directory), *options]


def specification(directory: Path) -> str:
    return f"popen//python={shlex.join(relay(directory))}"


@pytest.mark.usefixtures("guest")
def test_relays_what_execnet_says_both_ways(group: execnet.Group, tmp_path: Path) -> None:
    channel = group.makegateway(specification(tmp_path)).remote_exec(
        "channel.send(channel.receive())"
    )
    everything = bytes(range(256)) * 8192
    channel.send(everything)
    assert channel.receive(DEADLINE) == everything


def test_python_is_the_guest_s(
    group: execnet.Group, guest: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    made = group.makegateway(specification(tmp_path))
    channel = made.remote_exec("import os; channel.send(os.getpid())")
    assert channel.receive(DEADLINE) == guest.pid


def test_execnet_sees_that_the_guest_died(
    group: execnet.Group, guest: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    channel = group.makegateway(specification(tmp_path)).remote_exec("import time; time.sleep(60)")
    guest.kill()
    with pytest.raises(EOFError):
        channel.receive(DEADLINE)


@pytest.mark.usefixtures("guest")
def test_ends_when_execnet_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(
        relay(tmp_path, "-u", "-c", gateway.BOOTSTRAP),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin
        process.stdin.close()
        try:
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


@pytest.mark.usefixtures("guest")
def test_leaves_ctrl_c_to_pytest(group: execnet.Group, tmp_path: Path) -> None:
    before = children_of(os.getpid())
    made = group.makegateway(specification(tmp_path))
    (relaying,) = children_of(os.getpid()) - before
    channel = made.remote_exec("channel.send(1); channel.send(channel.receive())")
    assert channel.receive(DEADLINE) == 1
    os.kill(relaying, signal.SIGINT)
    channel.send("still here")
    assert channel.receive(DEADLINE) == "still here"


@pytest.mark.usefixtures("guest")
def test_refuses_another_bootstrap(tmp_path: Path) -> None:
    command = relay(tmp_path, "-u", "-c", "import something_new")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 2
    assert "not prepared for this version of execnet, which starts interpreters" in done.stderr


def test_says_that_the_guest_is_gone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / gateway.TO_GUEST)
    command = relay(tmp_path, "-u", "-c", gateway.BOOTSTRAP)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.returncode == 1
    assert "the guest is gone: [Errno 6]" in done.stderr


def test_guest_runs_the_bootstrap_that_execnet_sends() -> None:
    from execnet.gateway_io import popen_bootstrapline

    assert popen_bootstrapline == gateway.BOOTSTRAP
