"""The test of the tests: with a libbpf that is broken in one place, the selftests fail there.

Each defect is a small shared object in front of the system's libbpf (`broken_libbpf.c`). The tests
that name the broken behaviour must fail; others, which have nothing to do with it, must pass, so
that a library that breaks everything is no proof.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually, link_ids
from pytest_bpflink.system.cgroup2 import cgroup2_mount
from pytest_bpflink.system.estates import ROOT
from tests.support import ROOT as PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("_bpf_privileges")


@dataclass(frozen=True)
class Defect:
    """A defect's switch, tests that must fail with it, and tests that must pass all the same."""

    switch: str
    named: frozenset[str]
    unrelated: frozenset[str]


def ids_of(names: str) -> frozenset[str]:
    """Expand the short names below to node ids."""
    found: set[str] = set()
    for name in names.split():
        file, _, test = name.partition("::")
        each = [test]
        if file == "link_pinning":
            each = [f"{test}[{program}]" for program in ("pin_raw_tp", "pin_tp_btf")]
        found |= {f"selftests/test_{file}.py::{one}" for one in each}
    return frozenset(found)


DEFECTS = [
    Defect(
        "PIN_DOES_NOTHING",
        named=ids_of(
            "link_pinning::test_pin link_lifetime::test_pinned_survives_its_process[exit]"
        ),
        unrelated=ids_of(
            "link_pinning::test_attach link_lifetime::test_destroy_ends_it"
            " link_lifetime::test_disconnect cgroup_link::test_update cgroup_link::test_detach"
        ),
    ),
    Defect(
        "UNPIN_DOES_NOTHING",
        named=ids_of("link_pinning::test_unpin"),
        unrelated=ids_of(
            "link_pinning::test_attach link_pinning::test_pin link_pinning::test_open_pinned"
            " link_lifetime::test_destroy_ends_it cgroup_link::test_update cgroup_link::test_detach"
        ),
    ),
    Defect(
        "DESTROY_KEEPS_DESCRIPTOR",
        named=ids_of("link_lifetime::test_destroy_ends_it cgroup_link::test_destroyed_link_stops"),
        unrelated=ids_of(
            "link_pinning::test_attach link_lifetime::test_disconnect"
            " cgroup_link::test_links_at_all_levels_run cgroup_link::test_update"
            " cgroup_link::test_detach"
        ),
    ),
    Defect(
        "DISCONNECT_DOES_NOTHING",
        named=ids_of("link_lifetime::test_disconnect"),
        unrelated=ids_of(
            "link_pinning::test_pin link_pinning::test_unpin link_lifetime::test_destroy_ends_it"
            " link_lifetime::test_second_descriptor_keeps_it[original] cgroup_link::test_update"
            " cgroup_link::test_detach"
        ),
    ),
    Defect(
        "UPDATE_DOES_NOTHING",
        named=ids_of(
            "cgroup_link::test_update cgroup_link::test_compare_exchange"
            " cgroup_link::test_compare_exchange_with_wrong_old_program"
        ),
        unrelated=ids_of(
            "link_pinning::test_pin link_pinning::test_unpin link_lifetime::test_destroy_ends_it"
            " link_lifetime::test_attach_again_after_detach cgroup_link::test_query"
            " cgroup_link::test_info"
        ),
    ),
    Defect(
        "UPDATE_IGNORES_OLD_PROGRAM",
        named=ids_of("cgroup_link::test_compare_exchange_with_wrong_old_program"),
        unrelated=ids_of(
            "link_pinning::test_pin cgroup_link::test_update cgroup_link::test_compare_exchange"
            " cgroup_link::test_detach link_lifetime::test_owner_may_change"
        ),
    ),
    Defect(
        "DETACH_DOES_NOTHING",
        named=ids_of(
            "cgroup_link::test_detach link_lifetime::test_attach_again_after_detach"
            " link_lifetime::test_by_id_needs_privilege"
        ),
        unrelated=ids_of(
            "link_pinning::test_pin link_pinning::test_unpin link_lifetime::test_destroy_ends_it"
            " cgroup_link::test_update cgroup_link::test_auto_detach"
        ),
    ),
]


@dataclass(frozen=True)
class Outcome:
    """The results of the selftests by node id, and pytest's output."""

    status: int
    passed: frozenset[str]
    failed: frozenset[str]
    errors: frozenset[str]
    printed: str


@pytest.fixture
def selftests_with(tmp_path: Path) -> Callable[[str], Outcome]:
    """Run the selftests on this kernel with a defect, in a process of their own."""

    def run(switch: str) -> Outcome:
        library = tmp_path / f"{switch.lower()}.so"
        source = PROJECT / "tests/selftests/broken_libbpf.c"
        # Links to the real libbpf by its soname, which needs no libbpf-dev.
        command: list[str | Path] = ["cc", "-shared", "-fPIC", f"-D{switch}", source]
        command += ["-o", library]
        subprocess.run([*command, "-Wl,--no-as-needed", "-l:libbpf.so.1"], check=True)
        return _run_selftests(library)

    return run


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.switch.lower())
def test_selftests_catch(defect: Defect, selftests_with: Callable[[str], Outcome]) -> None:
    outcome = selftests_with(defect.switch)

    assert outcome.status == pytest.ExitCode.TESTS_FAILED, outcome.printed
    assert defect.named - outcome.failed == set(), outcome.printed
    assert defect.unrelated - outcome.passed == set(), outcome.printed
    # The fixtures clean up in spite of the defect.
    assert outcome.errors == set(), outcome.printed


def test_selftests_pass_in_front_of_the_real_library(
    selftests_with: Callable[[str], Outcome],
) -> None:
    outcome = selftests_with("BREAKS_NOTHING")

    assert outcome.status == pytest.ExitCode.OK, outcome.printed
    for defect in DEFECTS:
        assert (defect.named | defect.unrelated) - outcome.passed == set(), outcome.printed


def _run_selftests(library: Path) -> Outcome:
    # The selftests that run natively.
    files = [
        f"selftests/test_{name}.py" for name in ("link_pinning", "cgroup_link", "link_lifetime")
    ]
    command = [sys.executable, "-m", "pytest", *files, f"--bpf-libbpf={library}"]
    # A broken libbpf makes any test leak: such errors would name no behaviour.
    options = ["--bpf-leaks=off"]
    options += ["-q", "-rA", "--tb=short", "--color=no", "-p", "no:cacheprovider"]
    environment = {key: text for key, text in os.environ.items() if key != "PYTEST_ADDOPTS"}
    before = set(link_ids())
    with subprocess.Popen(
        [*command, *options],
        cwd=PROJECT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        printed, _ = process.communicate(timeout=60)
    _assert_nothing_left_by(process.pid, set(link_ids()) - before)
    # A line of the summary: outcome, node id, and the reason after a dash.
    summary = [line.partition(" - ")[0].partition(" ") for line in printed.splitlines()]
    passed, failed, errors = (
        frozenset(nodeid for word, _, nodeid in summary if word == outcome and "::" in nodeid)
        for outcome in ("PASSED", "FAILED", "ERROR")
    )
    return Outcome(process.returncode, passed, failed, errors, printed)


def _assert_nothing_left_by(pid: int, new_links: set[int]) -> None:
    """Assert that no link, mount, pin or cgroup outlives a session with a broken libbpf."""
    assert not list(ROOT.glob(f"{pid}-*"))
    assert not list(cgroup2_mount().glob(f"pytest-bpflink-{pid}-*"))
    # Waits: the links may be of another session on this kernel, which still runs.
    eventually(
        lambda: new_links.isdisjoint(link_ids()), what="links are gone with their session", within=5
    )
