"""Measures fixtures and link operations on the running kernel, and the same with bpftool.

    python bench/bench_fixtures.py

Prints medians; needs root and bpftool. Nothing here is a test: times depend on the machine and its
load, so compare only times of one run.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pytest_bpflink import BpfFs, Cgroup, Link, Object, links
from pytest_bpflink.building.compilation import object_of
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.ledger.estate import Estate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SOURCE = Path(__file__).resolve().parent.parent / "selftests/progs/cgroup_egress.bpf.c"

ROUNDS = 30  # with bpftool
ROUNDS_EACH = 10  # with the bindings, in each round with bpftool
LINKS = 500
SESSION_TESTS = 1000
IMPORT_RUNS = 15

# Operation of the bindings: the nearest command of bpftool, and how it differs.
BPFTOOL = {
    "load": "prog loadall, which pins too",
    "attach": "cgroup attach: a legacy attachment, as bpftool makes no cgroup links",
    "pin": "link pin id",
    "open": "link show pinned",
    "list all": "link show",
    "update": "none",
    "update from old": "none",
    "unpin": "none (rm)",
    "detach": "link detach id",
    "destroy": "cgroup detach of the legacy attachment",
    "close object": "none (rm)",
}

# The fixtures that the tests of a session ask for.
FIXTURES = {
    "nothing": (),
    "cgroup": ("cgroup",),
    "bpffs": ("bpffs",),
    "bpf_object": ("loaded",),
    "bpf_link": ("loaded", "cgroup", "attached"),
    "all four": ("loaded", "cgroup", "bpffs", "attached"),
    "four empty ones": ("empty_object", "empty_cgroup", "empty_bpffs", "empty_attached"),
}

CONFTEST = f"""
import json, os, pytest

@pytest.fixture
def loaded(bpf_object):
    return bpf_object({str(SOURCE)!r})

@pytest.fixture
def attached(loaded, cgroup, bpf_link):
    return bpf_link(loaded.program("egress"), cgroup)

# The same number of fixtures, with the same scopes and dependencies, that do nothing. pytest keeps
# some memory for each test and fixture until the session ends; that memory is not the plugin's.

@pytest.fixture(scope="session")
def empty_privileges(): pass

@pytest.fixture(scope="session")
def empty_estate(empty_privileges): yield

@pytest.fixture(scope="session")
def empty_cgroup_factory(empty_estate): yield

@pytest.fixture
def empty_cgroup(empty_cgroup_factory): yield

@pytest.fixture(scope="session")
def empty_bpffs_factory(empty_estate): pass

@pytest.fixture
def empty_bpffs(empty_bpffs_factory): yield

@pytest.fixture
def empty_bpf_object(request, empty_privileges): yield

@pytest.fixture
def empty_object(empty_bpf_object): pass

@pytest.fixture
def empty_link(empty_estate): yield

@pytest.fixture
def empty_attached(empty_object, empty_cgroup, empty_link): pass

phases, states = {{}}, []

def pytest_runtest_logreport(report):
    phases.setdefault(report.nodeid, []).append(report.duration)
    if report.when == "teardown":
        pages = int(open("/proc/self/statm").read().split()[1])
        states.append((pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))))

def pytest_sessionfinish():
    with open("measured.json", "w") as file:
        json.dump({{"phases": phases, "states": states}}, file)
"""


class Stopwatch:
    """Times in microseconds, by operation."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def __call__(self, operation: str) -> Iterator[None]:
        """Time a `with` block."""
        began = time.perf_counter()
        yield
        self._times[operation].append((time.perf_counter() - began) * 1e6)

    def median(self, operation: str) -> float | None:
        """Return the median of an operation's times, None if it was never timed."""
        times = self._times.get(operation)
        return median(times) if times else None


def main() -> None:
    """Measure everything and print it."""
    reason = missing_privileges()
    if reason or not shutil.which("bpftool"):
        sys.exit(reason or "bpftool is missing: apt install bpftool")
    print(f"Linux {os.uname().release}; medians, times in microseconds\n")
    ours, theirs = measure_operations()
    print_operations(ours, theirs)
    print_many()
    print_fixtures(ours=measure_fixtures(), theirs=theirs)
    print_session()
    print_import()


# Operations.


def measure_operations() -> tuple[Stopwatch, Stopwatch]:
    """Time the life of links, with the bindings and with bpftool in turn."""
    ours, theirs = Stopwatch(), Stopwatch()
    built = object_of(SOURCE)
    estate = Estate.found()  # if this process is killed, the next session cleans up
    cgroup = Cgroup(estate.make_cgroup())
    directory = estate.directory / "bpffs"
    directory.mkdir()
    try:
        with BpfFs.mount(directory) as bpffs:
            for _ in range(ROUNDS):
                for _ in range(ROUNDS_EACH):
                    live_with_bindings(ours, built, cgroup, bpffs)
                live_with_bpftool(theirs, built, cgroup, bpffs)
    finally:
        cgroup.remove()
        estate.close()
    return ours, theirs


@contextlib.contextmanager
def many_links(count: int) -> Iterator[None]:
    """Make COUNT links, fifty on each cgroup, which takes 64 at most."""
    estate = Estate.found()
    cgroup = Cgroup(estate.make_cgroup())
    try:
        with contextlib.ExitStack() as undo:
            loaded = undo.enter_context(Object.open(object_of(SOURCE)).load())
            for number in range(count // 50):
                on = cgroup.create(f"each-{number}")
                for _ in range(50):
                    undo.enter_context(loaded.program("egress").attach(on))
            yield
    finally:
        cgroup.remove()
        estate.close()


def live_with_bindings(watch: Stopwatch, built: Path, cgroup: Cgroup, bpffs: BpfFs) -> None:
    """Time each operation on a link and its object."""
    pin = bpffs / "link"
    with watch("load"):
        loaded = Object.open(built).load()
    egress, other = loaded.program("egress"), loaded.program("egress_alt")
    with watch("attach"):
        link = egress.attach(cgroup)
    with watch("pin"):
        link.pin(pin)
    with watch("open"):
        opened = Link.open(pin)
        _ = opened.info
    opened.destroy()
    with watch("list all"):
        _ = [each.info for each in links()]
    with watch("update"):
        link.update(other)
    with watch("update from old"):
        link.update(egress, old=other)
    with watch("unpin"):
        link.unpin()
    with watch("destroy"):
        link.destroy()
    with egress.attach(cgroup) as link, watch("detach"):
        link.detach()
    with watch("close object"):
        loaded.close()


def live_with_bpftool(watch: Stopwatch, built: Path, cgroup: Cgroup, bpffs: BpfFs) -> None:
    """Time the operations that bpftool has."""
    programs, pin = bpffs / "programs", bpffs / "link"
    hook = (cgroup.path, "cgroup_inet_egress", "pinned", programs / "egress")
    with watch("load"):
        bpftool("prog", "loadall", built, programs)
    with watch("attach"):
        bpftool("cgroup", "attach", *hook)
    with watch("destroy"):
        bpftool("cgroup", "detach", *hook)
    with Object.open(built).load() as loaded, loaded.program("egress").attach(cgroup) as link:
        with watch("pin"):
            bpftool("link", "pin", "id", link.id, pin)
        with watch("open"):
            bpftool("link", "show", "pinned", pin)
        with watch("list all"):
            bpftool("link", "show")
        with watch("detach"):
            bpftool("link", "detach", "id", link.id)
    for path in (pin, *programs.iterdir()):
        path.unlink()
    programs.rmdir()


def bpftool(*arguments: object) -> None:
    """Run bpftool."""
    subprocess.run(["bpftool", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def print_operations(ours: Stopwatch, theirs: Stopwatch) -> None:
    """Print the time of each operation."""
    rows = [
        (name, number(ours.median(name)), number(theirs.median(name)), ratio, note)
        for name, note in BPFTOOL.items()
        for ratio in [times(ours.median(name), theirs.median(name))]
    ]
    print_table(("operation", "bpflink", "bpftool", "ratio", "what bpftool does"), rows)


def print_many() -> None:
    """Print how long it takes to show many links with their holders."""
    command = str(Path(sys.executable).with_name("bpflink"))
    shown = {
        "bpflink links": [command, "links"],
        "bpflink links --json": [command, "links", "--json"],
        "bpftool link show": ["bpftool", "link", "show"],
    }
    watch = Stopwatch()
    with many_links(LINKS):
        for _ in range(ROUNDS_EACH):
            for name, words in shown.items():
                with watch(name):
                    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    print_table((f"{LINKS} links", "takes"), [(name, number(watch.median(name))) for name in shown])


# Fixtures, in sessions of pytest.


def measure_fixtures() -> dict[str, tuple[float, float]]:
    """Return the set-up and teardown time of each fixture, beyond a test without fixtures."""
    measured = {}
    for name, fixtures in FIXTURES.items():
        phases = list(run_session(fixtures, tests=200)["phases"].values())
        measured[name] = tuple(median(phase[i] for phase in phases) * 1e6 for i in (0, 2))
    base, objects, groups = (measured[name] for name in ("nothing", "bpf_object", "cgroup"))

    def beyond(name: str, *others: tuple[float, float]) -> tuple[float, float]:
        setup, teardown = measured[name]
        # Each of `others` includes the time of a test without fixtures: subtract that once only.
        setup -= sum(other[0] - base[0] for other in others) + base[0]
        teardown -= sum(other[1] - base[1] for other in others) + base[1]
        return setup, teardown

    return {
        "cgroup": beyond("cgroup"),
        "bpffs": beyond("bpffs"),
        "bpf_object": beyond("bpf_object"),
        "bpf_link": beyond("bpf_link", objects, groups),
        "all four": beyond("all four"),
    }


def print_fixtures(*, ours: dict[str, tuple[float, float]], theirs: Stopwatch) -> None:
    """Print the time of each fixture, and of the nearest operation of bpftool."""
    bpftools = {
        "bpf_object": (theirs.median("load"), None),
        "bpf_link": (theirs.median("attach"), theirs.median("destroy")),
    }
    rows = []
    for name, (setup, teardown) in ours.items():
        their_setup, their_teardown = bpftools.get(name, (None, None))
        rows.append(
            (
                name,
                number(setup),
                number(teardown),
                number(their_setup),
                number(their_teardown),
                times(setup + teardown, (their_setup or 0) + (their_teardown or 0) or None),
            )
        )
    heads = ("fixture", "set-up", "teardown", "by bpftool", "teardown", "ratio")
    print_table(heads, rows)


def print_session() -> None:
    """Print the time of a test in a long session, and how much the session grows."""
    rows = []
    for name in ("nothing", "four empty ones", "all four"):
        measured = run_session(FIXTURES[name], tests=SESSION_TESTS)
        per_test = median(sum(phases) for phases in measured["phases"].values())
        # At the hundredth test every cache is warm; after the last test the session's fixtures end.
        (rss, descriptors), (last_rss, last_descriptors) = (measured["states"][i] for i in (99, -2))
        rows.append(
            (
                name,
                f"{per_test * 1e3:.2f} ms",
                f"{(last_rss - rss) / 1024:+.0f} KiB",
                f"{last_descriptors - descriptors:+d}",
            )
        )
    print(f"{SESSION_TESTS} tests in one session. Target: a test in under 5 ms; no growth beyond")
    print("the memory that pytest keeps for the same number of fixtures that do nothing")
    print_table(("fixtures", "a test", "memory", "descriptors"), rows)


def run_session(fixtures: Sequence[str], *, tests: int) -> Any:
    """Run pytest on TESTS tests with these fixtures, and return what the conftest measured."""
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as directory:
        Path(directory, "pytest.ini").write_text("[pytest]\n")
        Path(directory, "conftest.py").write_text(CONFTEST)
        Path(directory, "test_cost.py").write_text(
            "import pytest\n"
            f"@pytest.mark.parametrize('number', range({tests}))\n"
            f"def test_cost({', '.join(['number', *fixtures])}): pass\n"
        )
        run_pytest(directory)
        return json.loads(Path(directory, "measured.json").read_text())


def run_pytest(directory: str, *arguments: str) -> None:
    """Run pytest in a directory, without its cache, and with compiled modules kept there."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPYCACHEPREFIX": f"{directory}/compiled"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL)


# The cost of the installed plugin in a session that does not use it.


def print_import() -> None:
    """Print the processor time of a session of one empty test, with and without the plugin."""
    variants = {
        "-q": (("-q",), ("-q", "-p", "no:bpflink")),
        "with its header": ((), ("-p", "no:bpflink")),
    }
    samples = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as directory:
        Path(directory, "pytest.ini").write_text("[pytest]\n")
        Path(directory, "test_empty.py").write_text("def test_empty(): pass\n")
        for arguments in variants.values():
            run_pytest(directory, *arguments[0])  # compiles
        for _ in range(IMPORT_RUNS):
            for name, pair in variants.items():
                samples[name].append([processor_time(directory, *each) for each in pair])
    rows = []
    for name, pairs in samples.items():
        with_it, without = (median(times) for times in zip(*pairs, strict=True))
        rows.append(
            (name, f"{with_it:.1f} ms", f"{without:.1f} ms", f"{with_it - without:+.1f} ms")
        )
    print("Processor time of a session of one test without use of the plugin. Target: 10 ms more")
    print_table(("session", "with plugin", "without", "more"), rows)


def processor_time(directory: str, *arguments: str) -> float:
    """Run pytest and return the milliseconds of processor time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run_pytest(directory, *arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3


# Printing.


def number(value: float | None) -> str:
    """Show microseconds, or `-` for None."""
    return "-" if value is None else f"{value:.0f}"


def times(ours: float | None, theirs: float | None) -> str:
    """Show THEIRS as a multiple of OURS, or `-` if one is missing."""
    return "-" if not ours or not theirs else f"{theirs / ours:.0f}x"


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their heads: the first column aligned left, numbers aligned right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        first, *rest = row
        cells = [first.ljust(widths[0])]
        for cell, head, width in zip(rest, heads[1:], widths[1:], strict=True):
            cells.append(cell.ljust(width) if head == "what bpftool does" else cell.rjust(width))
        print("  ".join(cells).rstrip())
    print()


if __name__ == "__main__":
    main()
