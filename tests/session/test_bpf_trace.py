"""What programs print is in the report of a failed test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfTrace
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.ledger.estate import Estate
from pytest_bpflink.system import estates, tracefs
from tests.support import ROOT, kernel_runs
from tests.support.sessions import run_session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import Object

PRINTS = ROOT / "tests/bpf/progs/prints.bpf.c"
STREAMS = ROOT / "tests/bpf/progs/streams.bpf.c"

CONFTEST = f"""
import os, pytest

@pytest.fixture
def loaded(bpf_object):
    return bpf_object({str(PRINTS)!r})
"""

TESTS = """
import pytest

def test_before(loaded):
    loaded.program("print").run(bytes(14))

def test_fails(loaded):
    loaded.program("print").run(bytes(20))
    loaded.program("print_lines").run(bytes(20))
    assert 0

def test_passes(loaded):
    loaded.program("print").run(bytes(30))

def test_prints_nothing(loaded):
    assert 0

@pytest.fixture
def ends_badly(loaded):
    yield
    loaded.program("print").run(bytes(40))
    assert 0

def test_whose_fixture_fails(ends_badly): pass
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a directory of this test alone for estates: other runs on this machine sweep, too."""
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)
    monkeypatch.setenv("BPFLINK_RUN_DIRECTORY", str(tmp_path / "run"))


@pytest.fixture
def instances(tmp_path: Path) -> Iterator[Path]:
    """The directory of all trace instances of this kernel."""
    place = tmp_path / "tracefs"
    place.mkdir()
    with tracefs.mounted(place) as root:
        yield tracefs.instance(root, "")


def made(instances: Path) -> set[str]:
    return {each.name for each in instances.iterdir()}


def sections(output: str) -> list[str]:
    """Return the sections, without the times of lines."""
    found = re.findall(r"-+ BPF trace -+\n((?:(?!---|___|===).*\n)*)", output)
    return [re.sub(r"\[ *\d+\.\d+\] ", "", each).rstrip() for each in found]


def test_failed_tests_show_what_programs_printed(tmp_path: Path, instances: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    before = made(instances)

    result = run_session(tmp_path, "test_it.py")

    result.assert_outcomes(passed=3, failed=2, errors=1)
    assert sections(result.stdout.str()) == [
        "a packet of 40 bytes\nits mark: 0",
        "a packet of 20 bytes\nits mark: 0\none\ntwo\nthree times",
    ]
    assert made(instances) <= before


def test_failed_tests_in_guests_show_it_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)

    result = run_session(tmp_path, "test_it.py", "--kernel", "6.12", timeout=300)

    result.assert_outcomes(passed=3, failed=2, errors=1)
    assert sections(result.stdout.str()) == [
        "a packet of 40 bytes\nits mark: 0",
        "a packet of 20 bytes\nits mark: 0\none\ntwo\nthree times",
    ]


STREAMED = f"""
def test_writes(bpf_object):
    loaded = bpf_object({str(STREAMS)!r})
    for _ in range(2):
        loaded.program("print").run()
    loaded.program("again").run()
    assert 0

def test_wrote_before_and_takes_it(bpf_object):
    loaded = bpf_object({str(STREAMS)!r})
    loaded.program("print").run()
    assert loaded.program("print").read_stream() == "a number: 7\\n"
    assert 0

def test_passes(bpf_object):
    bpf_object({str(STREAMS)!r}).program("print").run()

def test_prints(bpf_object, loaded):
    bpf_object({str(STREAMS)!r}).program("again").run()
    loaded.program("print").run(bytes(20))
    assert 0
"""


def test_failed_tests_in_guests_show_the_streams_of_programs(tmp_path: Path) -> None:
    """The same sections are in the reports by kernel."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(STREAMED)

    result = run_session(
        tmp_path, "test_it.py", "--kernel", "7.2", "--kernel-report=report.json", timeout=300
    )

    result.assert_outcomes(passed=1, failed=3)
    report = kernel_runs.read(tmp_path / "report.json")

    def shown(test: str) -> list[tuple[str, str]]:
        index = kernel_runs.results(report, test)["7.2"]["details"]
        each = [(section["title"], section["text"]) for section in report["details"][index]]
        return [
            (title, re.sub(r"\[ *\d+\.\d+\] ", "", text))
            for title, text in each
            if title.startswith("BPF")
        ]

    once = "a number: 7"
    assert shown("test_writes") == [
        ("BPF stdout of print", f"{once}\n{once}"),
        ("BPF stderr of again", once),
    ]
    assert shown("test_wrote_before_and_takes_it") == []
    assert shown("test_prints") == [
        ("BPF trace", "a packet of 20 bytes\nits mark: 0"),
        ("BPF stderr of again", once),
    ]
    assert sorted(re.findall("-+ (BPF .+?) -+", result.stdout.str())) == [
        "BPF stderr of again",
        "BPF stderr of again",
        "BPF stdout of print",
        "BPF trace",
    ]


def test_session_without_prints_makes_no_instance(tmp_path: Path, instances: Path) -> None:
    source = ROOT / "tests/bpf/progs/runs.bpf.c"
    (tmp_path / "test_it.py").write_text(f"""
import os
from pytest_bpflink.session import bpf_trace

def test_it(bpf_object, request):
    bpf_object({str(source)!r})
    assert bpf_trace.of(request.config)._trace is None
    assert not any(name.startswith(f"pytest-bpflink-{{os.getpid()}}-")
                   for name in os.listdir({str(instances)!r}))
""")
    run_session(tmp_path, "test_it.py").assert_outcomes(passed=1)


def test_workers_do_not_show_each_other_s_lines(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for length in (20, 30):
        (tmp_path / f"test_{length}.py").write_text(f"""
import time
from pathlib import Path

def test_it(loaded, bpf_trace):
    here = Path(__file__).parent
    (here / "here{length}").touch()
    while len(list(here.glob("here*"))) < 2:
        time.sleep(0.01)
    for _ in range(20):
        loaded.program("print").run(bytes({length}))
        time.sleep(0.005)
    (here / "done{length}").touch()
    while len(list(here.glob("done*"))) < 2:
        time.sleep(0.01)
    assert bpf_trace.lines == ["a packet of {length} bytes", "its mark: 0"] * 20
""")
    run_session(tmp_path, "-n2", "--dist=loadfile").assert_outcomes(passed=2)


def test_sessions_side_by_side_do_not_show_each_other_s_lines(
    bpf_trace: BpfTrace, bpf_object: Callable[..., Object]
) -> None:
    """A session that is no child of this one: its parent has ended, and left it to init."""
    script = f"""
import os, sys, threading
from pytest_bpflink import Object
from pytest_bpflink.ledger.estate import Estate

if os.fork():
    os._exit(0)
os.setsid()
estate = Estate.found()
with Object.open({str(PRINTS)!r}).load() as loaded:
    run = loaded.program("print").run
    run(bytes(30))

    def in_thread():
        run(bytes(31))
        print("done", flush=True)
        sys.stdin.read()

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
estate.close()
"""
    bpf_object(PRINTS).program("print").run(bytes(20))
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"BPFLINK_RUN_DIRECTORY": str(estates.ROOT.parent)},
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"done\n"
        lines = bpf_trace.lines
        assert other.stdin
        other.stdin.close()
        other.stdout.read()
    assert lines == ["a packet of 20 bytes", "its mark: 0"]


def test_lines_of_other_threads_and_children_are_shown(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text("""
import os, threading

def test_it(loaded, bpf_trace):
    run = loaded.program("print").run
    thread = threading.Thread(target=run, args=(bytes(20),))
    thread.start()
    thread.join()
    child = os.fork()
    if not child:
        run(bytes(30))
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    packets = [line for line in bpf_trace.lines if "packet" in line]
    assert packets == ["a packet of 20 bytes", "a packet of 30 bytes"]
""")
    run_session(tmp_path, "-n1").assert_outcomes(passed=1)


def test_the_user_s_own_tracing_goes_on(
    instances: Path, bpf_trace: BpfTrace, bpf_object: Callable[..., Object]
) -> None:
    """Another reader of the event has each line, too."""
    own = instances / f"test-{os.getpid()}"
    own.mkdir()
    try:
        other = BpfTrace(own, is_anothers=lambda _: False)
        bpf_object(PRINTS).program("print").run(bytes(20))
        assert bpf_trace.lines == other.lines[:2] == ["a packet of 20 bytes", "its mark: 0"]
        other.close()
    finally:
        own.rmdir()


def test_instance_of_a_killed_session_is_removed(tmp_path: Path, instances: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(
        """
def test_it(bpf_trace):
    os.kill(os.getpid(), 9)
""".replace("def", "import os\n\ndef", 1)
    )
    before = made(instances)

    result = run_session(tmp_path, "test_it.py")

    assert result.ret == -signal.SIGKILL
    [left] = made(instances) - before
    (tmp_path / "test_it.py").write_text("def test_it(): pass\n")
    clean = [sys.executable, "-m", "pytest_bpflink.cli", "clean", "--dry-run", "--json"]
    shown = subprocess.check_output(clean, text=True)
    assert f'"trace instance {left}"' in shown
    run_session(tmp_path, "test_it.py").assert_outcomes(passed=1)
    assert left not in made(instances)


def test_kernel_that_can_not_trace_is_told(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        CONFTEST
        + """
from pytest_bpflink.system import tracefs

def refuse(directory):
    raise OSError(19, "tracefs can't be mounted: No such device")

tracefs.mounted = refuse
"""
    )
    (tmp_path / "test_it.py").write_text(TESTS + "def test_asks(bpf_trace): pass\n")

    result = run_session(tmp_path, "test_it.py", "-k", "test_fails or asks")

    told = "trace bpf_printk: ENODEV (No such device); needs CAP_SYS_ADMIN, and a kernel with"
    assert f"({told} tracefs and BPF events)" in sections(result.stdout.str())
    result.stdout.fnmatch_lines([f"E*{told} tracefs and BPF events"])


def test_estate_has_one_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estates, "ROOT", tmp_path / "run/pytest-bpflink")
    (tmp_path / "run").mkdir()
    estate = Estate.found()
    with estate.trace_instance() as instance:
        assert (instance / "events/bpf_trace/bpf_trace_printk").is_dir()
    assert not instance.exists()
    estate.close()
    assert not estate.directory.exists()
