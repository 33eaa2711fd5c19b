"""Several guests of a kernel, and how many of them fit on this machine."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.matrix.guests import boots, capacity
from pytest_bpflink.matrix.guests.guests import Guest
from pytest_bpflink.session.kernel import MatrixKernel
from tests.support.fake_guests import FakeMachine, booted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]


def reporters(result: pytest.RunResult) -> dict[str, str]:
    lines = (line.split() for line in result.outlines if line.startswith("["))
    return {words[-1]: words[0].strip("[]") for words in lines if "::" in words[-1]}


def test_guest_starts_no_machine_once_the_session_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guest = Guest(
        MatrixKernel("good", "good", "6.1"),
        lambda: FakeMachine("good", tmp_path, tmp_path / "console"),
        name="good",
        restarts=3,
    )
    guest.boot()
    guest.end()
    guest.replace("It panicked.")
    assert booted() == ["good"]
    over = "kernel good (Linux 6.1) is not started again, since the session is over"
    assert guest.stand_in == over


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def leave(mebibytes: int) -> None:
        monkeypatch.setattr(capacity, "_available_mib", lambda: mebibytes)

    return leave


@pytest.mark.parametrize(
    ("left", "workers", "sentence"),
    [
        (6144, 3, ""),
        (6143, 2, "guests for each kernel: 2 instead of 3; this machine has 6143 MiB left, *"),
        (2048, 1, "guests for each kernel: 1 instead of 3; *a guest takes up to 512 MiB"),
        (2047, 1, "guests for each kernel: 1 instead of 3; *"),
    ],
)
def test_memory_bounds_the_guests_of_a_kernel(
    available: Callable[[int], None], left: int, workers: int, sentence: str
) -> None:
    available(left)

    bounded, said = capacity.affordable_workers(3, kernels=4, memory_mib=512)

    assert bounded == workers
    pytest.LineMatcher([said]).fnmatch_lines([sentence])


def test_each_kernel_has_a_guest_even_if_memory_may_not_suffice(
    available: Callable[[int], None],
) -> None:
    available(1000)

    bounded, said = capacity.affordable_workers(1, kernels=4, memory_mib=512)

    assert bounded == 1
    assert said.startswith("guests may run out of memory: this machine has 1000 MiB left")


def test_native_workers_take_no_guests_memory(available: Callable[[int], None]) -> None:
    available(1)

    assert capacity.affordable_workers(2, kernels=0, memory_mib=512) == (2, "")


@pytest.mark.parametrize(
    ("cores", "left", "at_once"),
    [(2, 9999, 3), (1, 9999, 2), (64, 99999, 16), (64, 2600, 5), (2, 9, 2)],
)
def test_cores_and_memory_bound_the_guests_of_single_items(
    available: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    left: int,
    at_once: int,
) -> None:
    available(left)
    monkeypatch.setattr("os.cpu_count", lambda: cores)

    assert capacity.fresh_at_once(512) == at_once


def test_guests_of_a_kernel_share_its_items(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile(
        """
        import time
        import pytest

        @pytest.mark.parametrize("n", range(8))
        def test_x(n): time.sleep(0.1)
        """
    )

    result = with_fakes("-v", "--kernel", "6.1,native,7.2", "--kernel-workers", "2")

    result.assert_outcomes(passed=24)
    workers = reporters(result)
    assert set(workers.values()) == {"6.1-1", "6.1-2", "native", "7.2-1", "7.2-2"}
    assert all(worker.startswith(item[:-1].rpartition("-")[2]) for item, worker in workers.items())
    for name in set(workers.values()) - {"native"}:
        assert 2 <= list(workers.values()).count(name) <= 6


def test_a_guest_that_dies_leaves_its_items_to_the_others_of_its_kernel(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from fake_guests import panic

        @pytest.mark.parametrize("n", range(10))
        def test_x(n):
            if n in {0, 1}:
                panic("here")
        """
    )

    result = with_fakes("--kernel", "good", "--kernel-workers", "2", "--max-worker-restart", "1")

    result.assert_outcomes(passed=8, failed=2)


def test_many_guests_boot_a_few_at_a_time(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makeconftest("import os; os.cpu_count = lambda: 1")
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--kernel", "a,b,c,d,e")

    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(
        [
            "booting 4 of 5 guests at a time, since this machine has 1 cores",
            "booting a, b, c, d",
        ]
    )
    assert len(booted(pytester.path)) == 5


def test_header_of_guests_alone_says_nothing_of_privileges(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    """In guests the tests are root, whoever runs them here."""
    pytester.makepyfile("def test_x(cgroup): pass")

    native = with_fakes("--kernel", "native,6.1")
    guests = with_fakes("--kernel", "6.1")

    native.stdout.fnmatch_lines(["bpflink: Linux *", "bpflink: cgroup2 at *, privileges *"])
    guests.stdout.fnmatch_lines(["bpflink: Linux *"])
    guests.stdout.no_fnmatch_line("bpflink: cgroup2*")
    guests.stdout.no_fnmatch_line("bpflink: kernel log*")


class Booting:
    """A guest that is up when `until` is set, and sets `begun` when it starts."""

    stand_in = None

    def __init__(self, name: str, *, until: Event | None = None) -> None:
        self.name = name
        self.begun = Event()
        self._until = until

    def boot(self) -> None:
        self.begun.set()

    def wait_ready(self) -> None:
        assert self._until is None or self._until.wait(30)


class Said(list[str]):
    """Progress, as lines."""

    def __call__(self, text: str) -> None:
        self.append(text)

    def line(self, text: str) -> None:
        self.append(text)

    def done(self) -> None:
        pass


def test_each_guest_that_boots_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that boots on while another one starts is not named again."""
    monkeypatch.setattr(capacity, "boots_at_once", lambda: 2)
    last = Booting("7.2")
    guests: list[Any] = [Booting("6.1"), Booting("6.12", until=last.begun), last]
    said = Said()

    boots.side_by_side(guests, said, meanwhile=lambda: None)

    assert [line for line in said if " at a time" not in line][:-1] == [
        "booting 6.1, 6.12",
        "booting 7.2",
    ]


def test_two_runs_at_once_do_not_disturb_each_other(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import os, subprocess, sys

        def test_x(request, tmp_path):
            if "INNER" not in os.environ:
                command = [sys.executable, "-m", "pytest", "-p", "fake_guests", "--kernel", "good"]
                environment = os.environ | {"INNER": "1"}
                for name in [name for name in environment if name.startswith("PYTEST_")]:
                    del environment[name]
                subprocess.run(command, check=True, env=environment)
        """
    )

    with_fakes("--kernel", "good,6.1").assert_outcomes(passed=2)
