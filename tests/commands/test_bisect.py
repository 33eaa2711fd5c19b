"""`bpflink bisect`: the kernels that it tries, its outcomes, and one real bisection."""

from __future__ import annotations

import json
import math
import shlex
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.commands.bisect import search
from pytest_bpflink.commands.candidates import of
from pytest_bpflink.commands.output import CommandError
from pytest_bpflink.commands.trial import Outcome
from pytest_bpflink.vm.kernels import KernelError, KernelNotFound, Store, releases
from tests.support import ROOT
from tests.support.command import BPFLINK, bpflink
from tests.support.kernel_trees import add_kernel, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Known:
    """A kernel that is stored or offered."""

    upstream: str

    @property
    def version(self) -> str:
        return f"{self.upstream}-1"

    @property
    def release(self) -> str:
        return f"{self.upstream}-amd64"


KNOWN = [
    Known(version)
    for version in ("5.10.9", "6.1.8", "6.1.100", "6.12.5", "6.12.90", "6.18.1", "7.2.9", "7.3~rc7")
]


@pytest.mark.parametrize(
    ("first", "last", "specs"),
    [
        ("5.10", "6.18", ["5.10", "6.1", "6.12", "6.18"]),
        ("6.1.8", "6.12.5", ["6.1.8", "6.12.5"]),
        ("6.1", "newest", ["6.1", "6.12", "6.18", "7.2"]),
        ("oldest", "lts", ["5.10", "6.1", "6.12", "6.18"]),
        ("6.18", "7.3", ["6.18", "7.2", "7.3"]),
        ("6.12.5", "6.12.90", ["6.12.5", "6.12.90"]),
        ("6.1.8", "6.1", ["6.1.8", "6.1.100"]),
    ],
)
def test_kernels_from_one_to_another(first: str, last: str, specs: list[str]) -> None:
    assert of(KNOWN, first, last, stored=[]) == specs


def test_ends_that_make_no_range() -> None:
    with pytest.raises(KernelError, match=r"7\.2 is newer than 6\.1: write 6\.1\.\.7\.2"):
        of(KNOWN, "7.2", "6.1", stored=[])
    with pytest.raises(KernelNotFound, match=r"there is no kernel 6\.6; there are:"):
        of(KNOWN, "6.6", "7.2", stored=[])
    with pytest.raises(KernelError, match=r"there is one kernel from 7\.2 to 7\.2, 7\.2\.9: "):
        of(KNOWN, "7.2", "7.2", stored=[])


class Kernels:
    """Kernels on which a test passes from one of them on; some of them can't be tried."""

    def __init__(self, passes_from: int, broken: frozenset[int] = frozenset()) -> None:
        self._passes_from = passes_from
        self._broken = broken
        self.tried: list[int] = []

    def outcome(self, spec: str) -> Outcome | None:
        self.tried.append(int(spec))
        if int(spec) in self._broken:
            return None
        return Outcome((("test", "passed" if int(spec) >= self._passes_from else "failed"),))


@pytest.mark.parametrize("number", [2, 3, 5, 11, 40])
def test_first_kernel_with_another_outcome_is_found_in_few_steps(number: int) -> None:
    specs = [str(each) for each in range(number)]
    for first in range(1, number):
        kernels = Kernels(first)
        assert search(specs, kernels.outcome) == (str(first - 1), str(first))
        assert len(kernels.tried) <= math.log2(number) + 2
        assert len(set(kernels.tried)) == len(kernels.tried)


def test_same_outcome_everywhere() -> None:
    kernels = Kernels(0)
    assert search(["0", "1", "2", "3"], kernels.outcome) is None
    assert kernels.tried == [0, 2, 3]


def test_kernels_that_can_not_be_tried_are_left_out() -> None:
    kernels = Kernels(5, frozenset({0, 4, 9}))
    assert search([str(each) for each in range(10)], kernels.outcome) == ("3", "5")
    with pytest.raises(CommandError, match="could be run on one kernel at most"):
        search(["0", "1"], Kernels(1, frozenset({0})).outcome)


@pytest.fixture
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that writes a test file into the command's directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")

    def write(text: str) -> None:
        (tmp_path / "test_it.py").write_text(text)

    return write


def test_file_that_is_not_there() -> None:
    done = bpflink("bisect", "nosuch.py::test_it", "--kernel", "6.1..7.2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "bpflink: there is no nosuch.py here to run\n"


def test_missing_packages_are_reported_before_kernels_are_fetched(
    in_directory: Callable[[str], None], tmp_path: Path
) -> None:
    in_directory("def test_it(): pass\n")
    hidden = tmp_path / "without"
    write(hidden / "sitecustomize.py", "import sys; sys.modules['xdist'] = None\n")
    cache = tmp_path / "cache"
    done = bpflink(
        *("bisect", "test_it.py", "--kernel", "6.1..7.2"),
        PYTHONPATH=str(hidden),
        BPFLINK_CACHE=str(cache),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'pytest-bpflink[vm]'" in done.stderr
    assert not cache.exists()


def test_option_that_pytest_does_not_know(in_directory: Callable[[str], None]) -> None:
    in_directory("def test_it(): pass\n")
    done = bpflink("bisect", "test_it.py", "--kernel", "6.1..newest", "--", "--nosuch")
    assert done.returncode == 1
    assert "pytest did not run test_it.py (its exit status is 4)" in done.stderr
    assert "unrecognized arguments: --nosuch" in done.stderr


SEVEN = ("5.10.9", "6.1.8", "6.12.5", "6.16.2", "6.17.1", "6.18.1", "7.2.9")

# Runs in fake guests.
PASSES_FROM_6_17 = """
import os, time

def test_it(request):
    spec = request.node.callspec.id
    if spec == os.environ.get("HANGS"):
        open("hangs", "w").close()
        time.sleep(60)
    assert spec in ("6.17", "6.18", "7.2")
"""


@pytest.fixture
def seven_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a store with kernels that are never booted."""
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/support"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for version in SEVEN:
        add_kernel(Store(), version)


BISECT = ["bisect", "test_it.py", "--kernel", "5.10..7.2", "--stored"]
FAKES = ["--", "-p", "fake_guests"]


@pytest.mark.usefixtures("seven_kernels")
def test_each_step_is_printed(in_directory: Callable[[str], None]) -> None:
    in_directory(PASSES_FROM_6_17)
    done = bpflink(*BISECT, *FAKES)
    assert (done.returncode, done.stderr.count("running")) == (0, 4)
    lines = done.stdout.splitlines()
    assert lines[0] == "7 kernels: 5.10 6.1 6.12 6.16 6.17 6.18 7.2"
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["5.10", "failed"],
        ["6.16", "failed"],
        ["6.18", "passed"],
        ["6.17", "passed"],
    ]
    assert lines[5:] == [
        "",
        "first on 6.17 (Linux 6.17.1-amd64): passed",
        "until 6.16 (Linux 6.16.2-amd64): failed",
    ]


@pytest.mark.usefixtures("seven_kernels")
def test_interrupted_bisection_can_be_continued(
    in_directory: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_directory(PASSES_FROM_6_17)
    (tmp_path / "conftest.py").write_text(
        "def pytest_sessionfinish(session, exitstatus):\n"
        "    if not hasattr(session.config, 'workerinput'):\n"
        "        open('ended', 'a').write(f'{exitstatus:d} ')\n"
    )
    monkeypatch.setenv("HANGS", "6.18")
    with subprocess.Popen(
        [BPFLINK, *BISECT, "--json", *FAKES], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        eventually((tmp_path / "hangs").exists, within=30)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    found = json.loads(stdout)
    assert process.returncode == 130
    assert [step["spec"] for step in found["steps"]] == ["5.10", "6.16"]
    assert (found["last_before"]["spec"], found["first"], found["interrupted"]) == (
        "6.16",
        None,
        True,
    )
    again = "bpflink bisect test_it.py --kernel 6.16..7.2 --stored -- -p fake_guests"
    assert stderr.decode().endswith(f"bpflink: interrupted; to go on from here: {again}\n")
    # The pytest that it ran was not killed.
    assert (tmp_path / "ended").read_text() == "1 1 2 "

    monkeypatch.delenv("HANGS")
    done = bpflink(*shlex.split(again)[1:])
    assert "first on 6.17 (Linux 6.17.1-amd64): passed" in done.stdout


def test_tcx_came_with_6_6(in_directory: Callable[[str], None]) -> None:
    """Or with the first stored kernel after it."""
    in_directory(
        "import pytest\n\n"
        "@pytest.mark.bpf_requires('link:tcx', since='6.6')\n"
        "def test_attach(): pass\n"
    )
    stored = {releases.series(kernel): kernel.release for kernel in Store().kernels()}
    after = [name for name in stored if numbers(name) >= (6, 6)]
    if "6.1" not in stored or len(after) < 2:
        pytest.skip("needs kernels in the store: bpflink kernels fetch 6.1 6.12 6.18")
    done = bpflink("bisect", "test_it.py", "--kernel", f"6.1..{after[1]}", "--stored", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["first"]["release"], found["first"]["outcome"]) == (stored[after[0]], "passed")
    before = found["last_before"]
    assert (before["release"], before["outcome"]) == (stored["6.1"], "skipped")
    assert before["reason"] == f"link:tcx: came with Linux 6.6, this is {stored['6.1']}"
    assert [step["spec"] for step in found["steps"]] == ["6.1", after[0]]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
