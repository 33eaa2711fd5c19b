"""A test that leaves a BPF object gets an error that names its holder; strangers cause none."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import Link, Object, eventually
from pytest_bpflink.bpf import bpffs
from pytest_bpflink.introspection import pins
from tests.support import ROOT
from tests.support.sessions import run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup

OBJECT = ROOT / "selftests/progs/cgroup_egress.bpf.c"
FILTER = Path(__file__).parent / "progs/socket_filter.bpf.c"

PREAMBLE = f"""
import os, subprocess, sys, time
import pytest
from pytest_bpflink import BpfFs, Cgroup, Link, Object, links

def load():
    return Object.open({str(OBJECT)!r}).load()

@pytest.fixture
def egress(bpf_object):
    return bpf_object({str(OBJECT)!r}).program("egress")

@pytest.fixture
def kept(cgroup_factory):
    # It outlives its test, so that what is attached to it does.
    return cgroup_factory()
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Iterator[Callable[..., str]]:
    """Return a function that runs tests in another session, and returns its output."""
    with removed_afterwards(pytester.path):

        def run(tests: str, *arguments: str) -> str:
            pytester.makepyfile(PREAMBLE + tests)
            result = pytester.runpytest_subprocess("-W", "error", *arguments, timeout=100)
            return result.stdout.str() + result.stderr.str()

        yield run


@contextlib.contextmanager
def removed_afterwards(directory: Path) -> Iterator[Path]:
    """At the end, unmount each BPF FS below a directory, and kill the processes in its `pids`."""
    pids = directory / "pids"
    yield pids
    for mount in pins.mounts():
        if mount.is_relative_to(directory):
            bpffs.unmount(mount)
    if pids.exists():
        for pid in pids.read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


START = """
def start(*descriptors):
    # A daemon: nobody's child, in a session of its own.
    code = "import os, sys; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True);"
    code += "os.execlp('sleep', 'sleep', '60')"
    with open(PIDS, "a") as pids:
        subprocess.run([sys.executable, "-c", code], pass_fds=descriptors, stdout=pids, check=True)
"""


LEAKS = """
def test_before(egress, kept, bpffs):
    with egress.attach(kept) as link:
        link.pin(bpffs / "link")

def test_pin(egress, kept, bpffs_factory):
    mount = bpffs_factory()
    print("mount", mount.path)
    with egress.attach(kept) as link:
        link.pin(mount / "forgotten")

def test_pin_of_a_child(kept, tmp_path):
    BpfFs.mount(tmp_path)
    if not os.fork():
        load().program("egress").attach(kept).pin(tmp_path / "forgotten")
        os._exit(0)
    os.wait()

def test_child(egress, kept):
    with egress.attach(kept) as link:
        child = test_child.child = subprocess.Popen(["sleep", "60"], pass_fds=[link.fd])
    with open(PIDS, "a") as pids:
        pids.write(f"{child.pid}\\n")

def test_daemon(egress, kept):
    with egress.attach(kept) as link:
        start(link.fd)

def test_legacy_attachment(egress, kept):
    kept.attach(egress)

def test_itself():
    test_itself.kept = load()

def test_after(egress, kept, bpf_link):
    bpf_link(egress, kept)
"""


@pytest.fixture(scope="module")
def leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run tests, most of which leave an object, and return the session's output."""
    directory = tmp_path_factory.mktemp("leaks")
    with removed_afterwards(directory) as pids:
        tests = PREAMBLE + f"PIDS = {str(pids)!r}\n" + START + LEAKS
        (directory / "test_leaks.py").write_text(tests)
        yield run_session(directory, "-W", "error", "-rE").stdout.str()


LEFT_LINK = r"the test left link \d+ \(CGROUP prog_id \d+, cgroup_id \d+\), held by "
LEFT_PROGRAM = r"the test left program \d+ \(CGROUP_SKB egress\), held by "
HELD = {
    "test_pin": LEFT_LINK + r"pin /\S+/bpffs\d+/forgotten$",
    "test_pin_of_a_child": LEFT_LINK + r"pin /\S+/test_pin_of_a_child0/forgotten$",
    "test_child": LEFT_LINK + r"fd \d+ of pid \d+ \(sleep\)$",
    "test_daemon": LEFT_LINK + r"fd \d+ of pid \d+ \(sleep\)$",
    "test_legacy_attachment": LEFT_PROGRAM + r"the attachment to cgroup /\S+ \(CGROUP_I",
    "test_itself": LEFT_PROGRAM + r"fd \d+ of pid \d+ \(py",
}


def test_each_leak_is_an_error_of_its_test(leaks: str) -> None:
    assert "8 passed, 6 errors" in leaks
    assert set(errors_at_teardown(leaks)) == set(HELD)


@pytest.mark.parametrize("test", HELD)
def test_error_names_what_was_left_and_its_holder(leaks: str, test: str) -> None:
    assert re.search(HELD[test], errors_at_teardown(leaks)[test], re.MULTILINE)


def test_error_does_not_name_what_the_leaked_object_holds(leaks: str) -> None:
    """A link holds its program, and a program its maps."""
    assert not re.search(r"left map", leaks)
    assert not re.search(r"left program", errors_at_teardown(leaks)["test_pin"])


def test_many_leaks_are_counted(run: Callable[..., str]) -> None:
    output = run(
        """
def test_leaves_many(egress, kept, bpffs_factory):
    mount = bpffs_factory()
    for number in range(13):
        with egress.attach(kept.create(str(number))) as link:
            link.pin(mount / str(number))

def test_after(): pass
    """
    )
    told = errors_at_teardown(output)["test_leaves_many"]
    assert len(re.findall(LEFT_LINK, told)) == 10
    assert "\nand 3 more: 3 links\nDestroy, unpin or detach it " in told


def errors_at_teardown(output: str) -> dict[str, str]:
    """Return the text about each test that had an error at its teardown."""
    body = output.partition("short test summary")[0]
    parts = re.split(r"^_{3,} ERROR at teardown of (\w+) _{3,}$", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_leaks_are_reported_beside_other_failures(run: Callable[..., str]) -> None:
    output = run(
        """
@pytest.fixture
def breaks(kept):
    yield
    raise RuntimeError("the fixture's own")

def test_fails(egress, kept, bpffs_factory):
    with egress.attach(kept) as link:
        link.pin(bpffs_factory() / "forgotten")
    assert False, "the test's own"

def test_breaks(breaks, egress, kept, bpffs_factory):
    with egress.attach(kept) as link:
        link.pin(bpffs_factory() / "forgotten")

def test_fails_holding():
    loaded = load()
    assert not loaded, "the test's own"

@pytest.mark.xfail(strict=True)
def test_is_meant_to_fail(egress, kept, bpffs_factory):
    with egress.attach(kept) as link:
        link.pin(bpffs_factory() / "forgotten")
    assert False

def test_after(): pass
    """
    )
    assert "2 failed, 2 passed, 1 xfailed, 3 errors" in output
    assert output.count("E       AssertionError: the test's own") == 2
    assert output.count("RuntimeError: the fixture's own") >= 1
    assert output.count("the test left link") == 3
    assert "- BPF leaks -" in output


def test_leaks_of_wider_fixtures_are_errors_at_their_end(run: Callable[..., str]) -> None:
    """An object that a wider fixture made is checked when the fixture ends, and is its leak."""
    output = run(
        """
@pytest.fixture(scope="module")
def clean(cgroup_factory):
    with load() as loaded, loaded.program("egress").attach(cgroup_factory()) as link:
        yield link

@pytest.fixture(scope="class")
def leaky(cgroup_factory, bpffs_factory):
    mount = bpffs_factory()
    with load() as loaded, loaded.program("egress").attach(cgroup_factory()) as link:
        link.pin(mount / "forgotten")
        yield

@pytest.fixture(scope="session")
def daemon(cgroup_factory):
    code = "import sys; from pytest_bpflink import Cgroup, Object; print(1, flush=True)\\n"
    code += "while path := sys.stdin.readline().strip():\\n"
    code += f"  link = Object.open({OBJECT!r}).load().program('egress').attach(Cgroup(path))\\n"
    code += "  print(link.id, flush=True)\\n"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process
        process.stdin.close()

class TestClass:
    def test_one(self, clean, leaky): pass
    def test_two(self, clean): pass

def test_asks_the_daemon(daemon, kept, clean):
    # Perhaps it is meant to go on.
    print(kept.path, file=daemon.stdin, flush=True)
    assert int(daemon.stdout.readline())

def test_takes_its_time(): time.sleep(1.1)

def test_last(clean): pass
    """.replace("OBJECT", repr(str(OBJECT)))
    )
    assert "5 passed, 1 error" in output
    assert "ERROR at teardown of TestClass.test_two" in output
    assert re.search(r"^class fixture leaky left link \d+ .*/forgotten$", output, re.MULTILINE)


def test_program_that_may_be_draining_is_an_error_of_its_test_later(
    run: Callable[..., str],
) -> None:
    """A program that only the kernel holds may be draining: the error comes after a second."""
    tests = """
import socket
SO_ATTACH_BPF = 50

@pytest.fixture
def program(bpf_object):
    return bpf_object({FILTER!r}).program("let_all_pass")

@pytest.fixture(scope="session")
def socket_that_stays():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        yield one

def test_attaches(program, socket_that_stays):
    socket_that_stays.setsockopt(socket.SOL_SOCKET, SO_ATTACH_BPF, program.fd)

def test_in_between(egress, kept, bpf_link): bpf_link(egress, kept)

def test_takes_its_time(): time.sleep(1.1)

def test_after(): pass
    """
    tests = tests.replace("{FILTER!r}", repr(str(FILTER)))
    for arguments in ((), ("-n1",)):
        output = run(tests, *arguments)
        assert "4 passed, 1 error" in output
        assert "ERROR at teardown of test_attaches" in output
        assert re.search(
            r"left program \d+ \(SOCKET_FILTER let_all_pass\), held by the kernel: no process",
            output,
        )
    # The socket is closed before the end.
    assert "3 passed" in run(tests, "-k", "not takes_its_time")


def test_leaks_are_allowed_warned_of_or_not_looked_for(run: Callable[..., str]) -> None:
    tests = """
{mark}
def test_pin(egress, kept, bpffs_factory):
    with egress.attach(kept) as link:
        link.pin(bpffs_factory() / "forgotten")

def test_after(): pass
    """
    assert "2 passed" in run(tests.format(mark="@pytest.mark.allow_leak"))
    assert "2 passed" in run(tests.format(mark=""), "--bpf-leaks=off")
    warned = run(tests.format(mark=""), "--bpf-leaks=warn", "-W", "default")
    assert "2 passed, 1 warning" in warned
    assert re.search(r"LeakWarning: the test left link \d+ ", warned)
    assert "2 passed" in run(tests.format(mark=""), "-o", "bpflink_leaks=off")
    refused = run(tests.format(mark=""), "-o", "bpflink_leaks=no")
    assert "bpflink_leaks = no: choose from error, warn, off" in refused


def test_parallel_workers_are_strangers(run: Callable[..., str]) -> None:
    """Two hundred tests on four workers: the one that leaks is reported."""
    output = run(
        """
@pytest.mark.parametrize("number", range(200))
def test_all(egress, cgroup, bpf_link, bpffs, number, cgroup_factory, bpffs_factory):
    link = bpf_link(egress, cgroup)
    link.pin(bpffs / "link")
    if number == 77:
        with egress.attach(cgroup_factory()) as other:
            other.pin(bpffs_factory() / "forgotten")
        """,
        "-n4",
    )
    assert "200 passed, 1 error" in output
    assert "ERROR at teardown of test_all[77]" in output


def test_object_that_a_stranger_holds_is_no_leak(
    run: Callable[..., str],
    bpf_object: Callable[..., Object],
    bpf_link: Callable[..., Link],
    cgroup: Cgroup,
    tmp_path: Path,
) -> None:
    """While a test runs, another process makes and keeps a link, which the test opens, too."""
    begun, attached = tmp_path / "begun", tmp_path / "attached"
    program = bpf_object(OBJECT).program("egress")

    def attach() -> None:
        eventually(begun.exists, within=60)
        attached.write_text(str(bpf_link(program, cgroup).id))

    thread = threading.Thread(target=attach)
    thread.start()
    output = run(
        f"""
from pathlib import Path
from pytest_bpflink import eventually

@pytest.fixture
def looks():
    begun, attached = map(Path, {[str(begun), str(attached)]!r})
    begun.touch()
    eventually(lambda: attached.exists() and attached.read_text(), within=20)
    with Link.by_id(int(attached.read_text())):
        yield

def test_it(egress, looks): pass
        """
    )
    thread.join()
    assert "1 passed" in output
    assert "error" not in output
