"""Measures guests: warm ones, cold ones, virtme-ng's plain ones, and runs without a guest.

    python bench/bench_guests.py [--rounds 5] [KERNEL...]

Prints medians, each with its ratio to the first of its table, and the size of guests on disk and in
memory. Needs the named kernels in the store; most rows use the first one only. Nothing here is a
test: times depend on the machine and its load, so compare only times of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import execnet

from pytest_bpflink.vm import architectures
from pytest_bpflink.vm.architectures import ALL
from pytest_bpflink.vm.cache import cache_root
from pytest_bpflink.vm.image import guest_image, inventory
from pytest_bpflink.vm.kernels import find
from pytest_bpflink.vm.machines import kvm, qemu
from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.warm.saves import Saves
from pytest_bpflink.vm.warm.warm import WarmMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.machine import Machine

KERNELS = ["6.1", "5.10", "6.12", "7.2"]

# The kernel that guests of each architecture run.
SERIES = "6.12"

TESTS = """
import pytest
@pytest.mark.parametrize("number", range({count}))
def test_trivial(number): pass
"""

# The number of items in the row in which each item has a guest of its own.
FRESH = 40

SELFTESTS = Path(__file__).resolve().parent.parent / "selftests"

# The size of a project: modules, tests in each module, and assertions in each test.
MODULES, FUNCTIONS, ASSERTIONS = 20, 25, 8

# Prints, as the run's last line, how many seconds a worker took from its start to its collection.
COLLECTION = """
import time

ready = {}

def pytest_testnodeready(node):
    ready[node] = time.perf_counter()

def pytest_xdist_node_collection_finished(node):
    ready[node] = time.perf_counter() - ready[node]

def pytest_unconfigure():
    print(max(ready.values()))
"""


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description="Measure guests")
    parser.add_argument("kernels", nargs="*", default=KERNELS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    kernel = find(options.kernels[0])
    acceleration = kvm.detect(kernel)
    print(f"Linux {kernel.release}, {acceleration.reason}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as directory:
        bench = Bench(kernel, Path(directory))
        bench.sizes()
        first_use(bench, options.kernels)
        guests = Table("a guest", options.rounds)
        guests.row("vng -- true", bench.vng)
        guests.row("warm: until Python runs on the host's root", bench.first_line)
        guests.row("bpflink vm -- uname -r", bench.command)
        guests.row("building the image", bench.build_image)
        sessions(Table("20 tests", options.rounds), bench, options.kernels)
        bench.memory()


def sessions(table: Table, bench: Bench, specs: list[str]) -> None:
    """Measure runs of pytest."""
    table.row("on the running kernel", bench.session)
    for guest in ("warm", "cold", "plain"):
        table.row(guest, partial(bench.session, "--kernel", specs[0], "--kernel-guest", guest))
    table.row(f"warm, on each of {len(specs)} kernels", partial(bench.session, *on(specs)))
    fresh = partial(bench.session, *on(specs[:1]), "--kernel-fresh", tests=FRESH)
    table.row(f"warm, {FRESH} tests, a guest for each: per test", fresh, parts=FRESH)
    selftests = partial(bench.beyond_tests, *on(specs))
    table.row(f"warm, selftests on {len(specs)} kernels: beyond the tests", selftests)
    bench.write_project()
    table.row(f"warm, {bench.lines} lines in {MODULES} modules: to collect", bench.collection)


def on_each_architecture(table: Table, bench: Bench) -> None:
    """Restore guests of each architecture for which there is a QEMU, this machine's first."""
    own = bench.kernel
    for spec in (SERIES, *(f"{arch}:{SERIES}" for arch in ALL if arch != architectures.own())):
        try:
            qemu.find(ALL.get(architectures.split(spec)[0]))
        except MachineError as error:
            print(f"{spec:50} {error}")
            continue
        bench.kernel = find(spec)
        table.row(spec, bench.first_line)
    bench.kernel = own


def on(specs: list[str]) -> list[str]:
    """Return the arguments of pytest for these kernels."""
    return ["--kernel", ",".join(specs)]


class Table:
    """Rows of medians, each with its ratio to the first row's."""

    def __init__(self, title: str, rounds: int) -> None:
        self._rounds = rounds
        self._first = 0.0
        print(f"\n{title:50} {'median':>8}    {'ratio':>6}  (range)")

    def row(self, what: str, run: Callable[[], float | None], *, parts: int = 1) -> None:
        """Print the median time of several runs, after one that does not count.

        If RUN returns seconds, these are its time; otherwise its whole call is timed.
        """
        run()
        times = []
        for _ in range(self._rounds):
            began = time.perf_counter()
            measured = run()
            times.append((measured or time.perf_counter() - began) / parts)
        self._first = self._first or median(times)
        ratio = median(times) / self._first
        between = f"({min(times):.2f} to {max(times):.2f})"
        print(f"{what:50} {median(times):8.2f} s  {ratio:6.2f}  {between}", flush=True)


class Bench:
    """One kernel's guests, and a directory with tests."""

    def __init__(self, kernel: Kernel, directory: Path) -> None:
        self.kernel = kernel
        self._directory = directory
        self._project = directory / "project"
        self._made = 0
        self.lines = 0
        for count in (20, FRESH):
            (directory / f"test_{count}.py").write_text(TESTS.format(count=count))

    def machine(self, kind: type[Machine] = WarmMachine) -> Machine:
        """Return a machine that is not started."""
        self._made += 1
        return kind(
            self.kernel,
            acceleration=kvm.detect(self.kernel),
            directory=self._directory / str(self._made),
            cwd=self._directory,
            environment=dict(os.environ),
        )

    def vng(self) -> None:
        """Run `true` in a guest, with virtme-ng alone."""
        beside = Path(sys.executable).parent
        path = f"{beside}:{os.environ['PATH']}"
        vng = shutil.which("vng", path=path)
        command = [str(vng), "--force-9p", "-r", str(self.kernel.image), "--", "true"]
        if not kvm.detect(self.kernel).kvm:
            command.insert(1, "--disable-kvm")
        with subprocess.Popen(
            command,
            cwd=self._directory,
            env=os.environ | {"PATH": path},
            # Pipes that stay open, or QEMU takes the guest's standard input for hung up.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as guest:
            if guest.wait():
                # vng leaves its devices, such as the port for the exit status, to the host's udev.
                raise SystemExit(f"vng -- true: {guest.returncode}: apt-get install udev")

    def first_line(self) -> float:
        """Return the seconds until a guest's Python runs, on the host's root."""
        with self.machine() as machine:
            began = time.perf_counter()
            machine.start()
            machine.wait_ready()
            return time.perf_counter() - began

    def command(self) -> None:
        """Run a command in a guest by `bpflink vm`."""
        self._run("pytest_bpflink.cli", "vm", self.kernel.spec, "--", "uname", "-r")

    def session(self, *arguments: str, tests: int = 20) -> None:
        """Run pytest with trivial tests."""
        self._run("pytest", "-q", "-p", "no:cacheprovider", f"test_{tests}.py", *arguments)

    def beyond_tests(self, *arguments: str) -> float:
        """Return how many seconds a run of selftests took longer than the tests themselves."""
        report = self._directory / "report.json"
        tests = [str(SELFTESTS / f"test_{name}.py") for name in ("link_pinning", "cgroup_link")]
        began = time.perf_counter()
        self._run("pytest", "-q", *tests, *arguments, "--kernel-report", str(report))
        taken = time.perf_counter() - began
        by_kernel: Counter[str] = Counter()
        for test in json.loads(report.read_text())["tests"]:
            for kernel, result in test["results"].items():
                by_kernel[kernel] += result["seconds"]
        return taken - max(by_kernel.values())

    def write_project(self) -> None:
        """Write the tests of a project of that size."""
        asserted = [f"    assert number + {each} > {each}" for each in range(ASSERTIONS)]
        module = "".join(
            "\n".join([f"def test_{each}():", f"    number = {each} + 1", *asserted, "\n"])
            for each in range(FUNCTIONS)
        )
        self._project.mkdir()
        for number in range(MODULES):
            (self._project / f"test_{number}.py").write_text(module)
        (self._project / "collection.py").write_text(COLLECTION)
        self.lines = MODULES * module.count("\n")

    def collection(self) -> float:
        """Return the seconds that a guest takes to collect a project's tests."""
        options = ["-p", "collection", "-q", "-k", "test_0", *on([self.kernel.spec])]
        return float(self._run("pytest", *options, directory=self._project).splitlines()[-1])

    def _run(self, *module: str, directory: Path | None = None) -> str:
        # Let Python keep compiled modules, as it does by default.
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        directory = directory or self._directory
        return subprocess.run(
            [sys.executable, "-m", *module],
            cwd=directory,
            env=environment | {"PYTHONPATH": str(directory)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def build_image(self) -> None:
        """Build the image of a guest, with an empty cache."""
        with tempfile.TemporaryDirectory() as directory:
            needed = inventory.take(sys.executable, os.environ, cache=Path(directory))
            guest_image.build(Path(directory) / "image", needed, modules=self._modules())

    def sizes(self) -> None:
        """Print the size of an image."""
        with tempfile.TemporaryDirectory() as directory:
            image = Path(directory) / "image"
            needed = inventory.take(sys.executable, os.environ, cache=Path(directory))
            guest_image.build(image, needed, modules=self._modules())
            print(f"{'a guest image':50} {image.stat().st_size / 1e6:8.1f} MB")

    def memory(self) -> None:
        """Print how much of the host's memory two guests of one kernel take."""
        with ExitStack() as stack:
            for number in (1, 2):
                machine = stack.enter_context(self.machine())
                machine.start()
                machine.wait_ready()
                gateway = execnet.makegateway(f"popen//python={machine.gateway_python}")
                stack.callback(gateway.exit)
                gateway.remote_exec("import pytest; channel.send(1)").receive(60)
                assert machine._process  # noqa: SLF001
                rollup = Path(f"/proc/{machine._process.pid}/smaps_rollup").read_text()  # noqa: SLF001
                sizes = dict(line.split()[:2] for line in rollup.splitlines()[1:])
                private = int(sizes["Private_Dirty:"]) + int(sizes["Private_Clean:"])
                pss = int(sizes["Pss:"])
                print(f"{f'guest {number}: PSS, private':50} {pss >> 10:6} MiB {private >> 10} MiB")

    def _modules(self) -> Path:
        modules = self.kernel.module_directory
        assert modules
        return modules


def first_use(bench: Bench, specs: list[str]) -> None:
    """Time the first use of each kernel, which saves a guest, in an empty cache."""
    kernel = bench.kernel
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as cache, caching_in(cache):
        for spec in specs:
            bench.kernel = find(spec) if spec != kernel.spec else kernel
            began = time.perf_counter()
            bench.first_line()
            print(f"{f'first use of {spec}':50} {time.perf_counter() - began:8.2f} s")
        taken = [
            sum(path.stat().st_blocks * 512 for path in description.parent.iterdir())
            for description in Saves(Path(cache) / "guests").root.glob("*/save.json")
        ]
        print(f"{'the largest save':50} {max(taken) / 1e6:8.1f} MB")
    bench.kernel = kernel


@contextmanager
def caching_in(directory: str) -> Iterator[None]:
    """Use DIRECTORY as the cache of saved guests, and keep the cache of kernels."""
    kernels = cache_root() / "kernels"
    (Path(directory) / "kernels").symlink_to(kernels)
    before = os.environ.get("BPFLINK_CACHE")
    os.environ["BPFLINK_CACHE"] = directory
    try:
        yield
    finally:
        os.environ.pop("BPFLINK_CACHE")
        if before is not None:
            os.environ["BPFLINK_CACHE"] = before


if __name__ == "__main__":
    main()
