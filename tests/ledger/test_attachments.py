"""A program that a test leaves attached without a link is that test's leak, whatever keeps it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.sessions import run_session
from tests.support.stored_kernels import CACHE

PROGRAMS = Path(__file__).parent / "progs/legacy.bpf.c"
SOCKMAP = Path(__file__).parent / "progs/sockmap.bpf.c"

COMMON = f"""
import contextlib
import pytest
from pyroute2 import IPRoute
from pytest_bpflink import AttachFlags, NetNs, Object
from pytest_bpflink.binding import libbpf

@contextlib.contextmanager
def loaded(name):
    with Object.open({str(PROGRAMS)!r}).load() as programs:
        yield programs.program(name)

def attach(program, target, flags=0):
    # The plugin sees no more of it than of another tool.
    kind = program.expected_attach_type
    libbpf.call("bpf_prog_attach", program.fd, target, kind, flags, doing="attach")

@pytest.fixture(scope="module")
def kept(cgroup_factory):
    return cgroup_factory()

@pytest.fixture(scope="module")
def netns():
    with NetNs.create() as netns:
        yield netns

@pytest.fixture(scope="module")
def sockets():
    with Object.open({str(SOCKMAP)!r}).load() as opened:
        yield opened.map("sockets")
"""

TESTS = {
    "cgroup": """
def test_cgroup(kept):
    with loaded("egress") as program:
        attach(program, kept.fileno(), AttachFlags.ALLOW_MULTI)
""",
    "filter": """
def test_filter(netns):
    with loaded("classifier") as program, netns.entered(), IPRoute() as route:
        route.tc("add", "clsact", netns.lo.ifindex)
        options = {"fd": program.fd, "name": "x", "parent": 0xfffffff3, "classid": 1}
        route.tc("add-filter", "bpf", netns.lo.ifindex, ":1", **options)
""",
    "xdp": """
def test_xdp(netns):
    with loaded("on_device") as program, netns.entered(), IPRoute() as route:
        route.link("set", index=netns.lo.ifindex, xdp_fd=program.fd)
""",
    "netns": """
def test_netns(netns):
    with loaded("dissector") as program, netns.entered():
        attach(program, 0)
""",
    "sockmap": """
def test_sockmap(sockets):
    with loaded("verdict") as program:
        attach(program, sockets.fd)
""",
}
NOTHING = """
def test_detaches(kept):
    with loaded("egress") as program:
        kept.attach(program, AttachFlags.ALLOW_MULTI)
        kept.detach(program)

def test_link(kept):
    with loaded("egress") as program, program.attach(kept): pass

def test_fixture_of_its_own(cgroup):
    with loaded("egress") as program:
        cgroup.attach(program)
"""

LEFT = "the test left program {} held by the attachment to {}"
HELD = {
    "cgroup": (r"\d+ \(CGROUP_SKB egress\),", r"cgroup /\S+ \(CGROUP_INET_EGRESS\)"),
    "filter": (r"\d+ \(SCHED_CLS classifier\),", r"device lo in netns \d+ \(tc filter, egress\)"),
    "xdp": (r"\d+ \(XDP on_device\),", r"device lo in netns \d+ \(XDP\)"),
    "netns": (r"\d+ \(FLOW_DISSECTOR dissector\),", r"netns \d+ \(FLOW_DISSECTOR\)"),
    "sockmap": (r"\d+ \(SK_MSG verdict\),", r"map \d+ \(SK_MSG_VERDICT\)"),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run tests that leave attachments to targets of wider fixtures, and return the output.

    Each is once the last test of its module: there the target ends in the test's teardown.
    """
    directory = tmp_path_factory.mktemp("attachments")
    for number, (kind, test) in enumerate(TESTS.items()):
        (directory / f"test_{number}_{kind}.py").write_text(COMMON + test)
    (directory / "test_all.py").write_text(COMMON + "".join(TESTS.values()) + NOTHING)
    kernels = ["--kernel", "native,5.10,7.2"]
    run = run_session(directory, "-W", "error", "-rE", *kernels, BPFLINK_CACHE=str(CACHE))
    return run.stdout.str()


@pytest.mark.parametrize("kernel", ["native", "5.10", "7.2"])
@pytest.mark.parametrize("kind", TESTS)
def test_attachment_is_the_leak_of_the_test(output: str, kind: str, kernel: str) -> None:
    title = rf"^_+ ERROR at teardown of test_{kind}\[{re.escape(kernel)}\] _+$"
    told = [text.partition("\n___")[0] for text in re.split(title, output, flags=re.MULTILINE)[1:]]
    assert len(told) == 2
    program, target = HELD[kind]
    expected = LEFT.format(program, target)
    if (kind, kernel) == ("sockmap", "5.10"):  # it can't be asked what a sockmap has
        expected = f"the test left program {program} held by the kernel: no process, no pin"
    assert [bool(re.search(expected, each)) for each in told] == [True, True]


def test_nothing_else_is_told(output: str) -> None:
    assert "= 39 passed, 30 errors in" in output
