"""The guest by which KVM is tried, of Linux 6.1; on hosts without KVM it is emulated."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import Kernel, find
from pytest_bpflink.vm.machines import trial
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.machines.kvm import detect
from pytest_bpflink.vm.machines.trial import TrialMachine

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_bpflink.vm.machines.acceleration import Acceleration


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """Find the kernel that the guests run."""
    return find("6.1", progress=partial(print, file=sys.stderr))


@pytest.fixture(scope="module")
def acceleration(kernel: Kernel) -> Acceleration:
    """Choose the acceleration of guests on this host."""
    return detect(kernel)


def test_kernel_runs_a_program(kernel: Kernel, acceleration: Acceleration, tmp_path: Path) -> None:
    with TrialMachine(kernel, acceleration=acceleration, directory=tmp_path / "own") as machine:
        machine.start()
        machine.wait_ready()
        said = machine.console_log.read_text()
    # The kernel tells what it does, by which the machine sees that it goes on.
    assert "Run /trial.sh as init process" in said
    assert "loading virtio_console.ko" in said


def test_guest_that_hangs(
    kernel: Kernel,
    acceleration: Acceleration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its init waits for the end of an input that nobody closes; the kernel stays silent."""
    monkeypatch.setattr(trial, "_SILENCE", 3.0)
    machine = TrialMachine(
        kernel,
        acceleration=acceleration,
        directory=tmp_path / "own",
        append=["rdinit=/bin/cat"],
    )
    with machine:
        machine.start()
        with pytest.raises(BootFailed, match=r"said nothing on its console for \d+ s") as caught:
            machine.wait_ready(40)
        assert caught.value.timed_out
        assert "Run /bin/cat as init process" in machine.console_log.read_text()


def test_guest_without_a_port(kernel: Kernel, acceleration: Acceleration, tmp_path: Path) -> None:
    """Without PCI there is no port, and the panic tells that a program ended with status 1."""
    machine = TrialMachine(
        kernel, acceleration=acceleration, directory=tmp_path / "own", append=["pci=off"]
    )
    with machine:
        machine.start()
        with pytest.raises(BootFailed, match="Attempted to kill init! exitcode=0x00000100"):
            machine.wait_ready()
