"""Leaks are also reported when a session ends early: by `-x`, `--maxfail`, Ctrl-C."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import ROOT

FILTER = Path(__file__).parent / "progs/socket_filter.bpf.c"
EGRESS = ROOT / "selftests/progs/cgroup_egress.bpf.c"

TESTS = f"""
import os, signal, socket
import pytest
SO_ATTACH_BPF = 50
SOCKETS = []  # which nobody closes

@pytest.fixture
def left(bpf_object):
    program = bpf_object({str(FILTER)!r}).program("let_all_pass")
    SOCKETS.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    SOCKETS[-1].setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, program.fd)

@pytest.fixture
def attached(bpf_object, bpf_link, cgroup):
    return bpf_link(bpf_object({str(EGRESS)!r}).program("egress"), cgroup)

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def test_leaves(left): pass
def test_fails(left): assert False
def test_is_interrupted(left): interrupt()
def test_is_interrupted_clean(attached): interrupt()
def test_after(): pass
"""


def _run(pytester: pytest.Pytester, *arguments: str) -> str:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=60)
    return result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize("arguments", [["-x"], ["--maxfail=1"], ["-x", "-n1"]], ids=" ".join)
def test_first_failure_ends_it(pytester: pytest.Pytester, arguments: list[str]) -> None:
    """Programs that had no time to drain are reported all the same."""
    output = _run(pytester, *arguments)
    assert "1 failed, 1 passed, 2 errors" in output
    for name in ("leaves", "fails"):
        assert f"ERROR at teardown of test_{name} " in output
    told = re.findall(r"^the test left program \d+ \(SOCKET_FILTER", output, re.MULTILINE)
    assert len(told) == 2
    assert "test_after" not in output


def test_ctrl_c(pytester: pytest.Pytester) -> None:
    """The leaks of the interrupted test are reported, and those of the tests before it."""
    output = _run(pytester, "-k", "leaves or is_interrupted or after")
    assert "KeyboardInterrupt" in output
    assert "2 errors" in output
    for name in ("leaves", "is_interrupted"):
        assert f"ERROR at teardown of test_{name} " in output


def test_ctrl_c_in_a_test_that_leaves_nothing(pytester: pytest.Pytester) -> None:
    output = _run(pytester, "-k", "is_interrupted_clean")
    assert "KeyboardInterrupt" in output
    assert "error" not in output
    assert "left" not in output


PINS = f"""
import pytest
from pytest_bpflink import Object

@pytest.fixture(scope="module")
def mount(bpffs_factory):
    with bpffs_factory() as mount:
        yield mount

@pytest.fixture(scope="module")
def kept(cgroup_factory):
    return cgroup_factory()

@pytest.fixture(scope="module")
def pinned(mount):
    with Object.open({str(EGRESS)!r}).load() as loaded:
        loaded.program("egress").pin(mount / "of_the_fixture")  # which `mount` removes
        yield

def test_last(bpffs_factory, mount, kept, pinned):
    with Object.open({str(EGRESS)!r}).load() as loaded:
        with loaded.program("egress").attach(kept) as link:
            link.pin(bpffs_factory() / "link")
    with Object.open({str(EGRESS)!r}).load() as loaded:
        loaded.program("egress").pin(mount / "program")
"""


def test_pins_of_the_last_test_are_its_leaks(pytester: pytest.Pytester) -> None:
    """The mounts end in the test's teardown, those of `bpffs_factory` after all fixtures."""
    pytester.makepyfile(PINS)
    output = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=60).stdout.str()
    assert "ERROR at teardown of test_last " in output
    told = re.findall(r"^the test left (\w+) \d+ .*, held by pin /\S+/(\w+)$", output, re.MULTILINE)
    assert sorted(told) == [("link", "link"), ("program", "program")]
    assert "= 1 passed, 1 error in" in output
