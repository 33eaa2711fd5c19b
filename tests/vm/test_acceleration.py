"""The choice of an acceleration, and how often KVM is tried; the machines are fakes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

import pytest

from pytest_bpflink.vm import cache
from pytest_bpflink.vm.kernels import Kernel
from pytest_bpflink.vm.machines import kvm, qemu
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.machines.kvm import detect

KVM = Acceleration(kvm=True, reason="KVM")
HUNG = BootFailed("nothing", timed_out=True)
PANIC = "Kernel panic - not syncing: Attempted to kill init!"
ENDED = BootFailed("nothing", timed_out=False)


class PretendedMachine:
    """A machine whose guest boots, or fails with `failure`."""

    failure: BootFailed | None = None
    started = 0
    returncode = 1
    console = ""
    qemu = ""

    def __init__(self, *_arguments: Any, directory: Path, **_options: Any) -> None:
        self.directory = directory

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def start(self) -> None:
        type(self).started += 1
        self.directory.mkdir()
        (self.directory / "qemu.log").write_text(self.qemu)

    def console_tail(self, *, lines: int = 40) -> str:
        return "\n".join(self.console.splitlines()[-lines:])

    def wait_ready(self) -> None:
        if self.failure:
            raise self.failure


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[PretendedMachine]:
    """Make a device for KVM, an empty cache, and machines that are only pretended."""

    class Machine(PretendedMachine):
        pass

    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(kvm, "_DEVICE", device)
    use_qemu(tmp_path / "QEMU 7.2", monkeypatch)
    monkeypatch.setattr(kvm, "TrialMachine", Machine)
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    return Machine


def use_qemu(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.touch()
    monkeypatch.setattr(qemu, "find", lambda: program)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return made(tmp_path, "6.1.0-50-amd64")


def made(directory: Path, release: str, *, lease: object = "the store's") -> Kernel:
    """Make a kernel: of the store, or with no LEASE a kernel that someone built."""
    image = directory / f"vmlinuz-{release}"
    image.touch()
    return Kernel("spec", "id", release, image, None, {}, lease=lease)


def test_kvm_with_which_a_kernel_boots(machine: type[PretendedMachine], kernel: Kernel) -> None:
    assert detect(kernel) == KVM
    assert machine.started == 1


def test_kernel_that_hangs_with_kvm(machine: type[PretendedMachine], kernel: Kernel) -> None:
    machine.failure = HUNG
    machine.console = "[    0.1] Linux version 6.1\n[    0.4] Memory: 400M"
    assert said(kernel) == "Linux 6.1.0-50-amd64 hung: [    0.4] Memory: 400M"


def test_kernel_that_hangs_since_qemu_stopped_it(
    machine: type[PretendedMachine], kernel: Kernel
) -> None:
    machine.failure = HUNG
    machine.qemu = "KVM internal error. Suberror: 1\nRAX=0000000000000000\nCode=24 5b 80"
    assert said(kernel) == "Linux 6.1.0-50-amd64 hung: KVM internal error. Suberror: 1"


def test_kernel_that_crashes_with_kvm(machine: type[PretendedMachine], kernel: Kernel) -> None:
    machine.failure = ENDED
    machine.console = "[    1.5] Run /init\n[    1.6] Oops: 0000 [#1]\n[    1.7] Kernel panic"
    assert said(kernel) == "Linux 6.1.0-50-amd64 crashed: Oops: 0000 [#1]"


def test_qemu_that_ends_with_kvm(machine: type[PretendedMachine], kernel: Kernel) -> None:
    machine.failure = ENDED
    machine.qemu = "qemu: error: failed to set MSR 0x48f\n"
    ended = "ended (QEMU's status 1): qemu: error: failed to set MSR 0x48f"
    assert said(kernel) == f"Linux 6.1.0-50-amd64 {ended}"


def said(kernel: Kernel) -> str:
    """Return the reason why a kernel is emulated, less its beginning."""
    found = detect(kernel)
    assert not found.kvm
    start = f"TCG: with {kvm._DEVICE} "
    assert found.reason.startswith(start)
    return found.reason.removeprefix(start)


@pytest.mark.parametrize(("exitcode", "is_usable"), [("0x00000100", True), ("0x0000000b", False)])
def test_kernel_whose_first_program_ends_with_kvm(
    machine: type[PretendedMachine], kernel: Kernel, exitcode: str, *, is_usable: bool
) -> None:
    """A program that finds no virtio port exits; a program that KVM breaks is killed."""
    machine.failure = ENDED
    machine.console = f"[    1.5] Run /trial.sh\n[    2.1] {PANIC} exitcode={exitcode}"
    assert detect(kernel).kvm == is_usable


def test_failure_is_kept_for_its_kernel(machine: type[PretendedMachine], kernel: Kernel) -> None:
    machine.failure = HUNG
    first = detect(kernel)
    machine.failure = None
    assert detect(kernel) == first
    assert machine.started == 1


def test_failure_is_not_kept_for_other_kernels(
    machine: type[PretendedMachine], kernel: Kernel, tmp_path: Path
) -> None:
    machine.failure = HUNG
    first = detect(kernel)
    machine.failure = None
    assert detect(made(tmp_path, "6.12")) == KVM
    assert detect(made(tmp_path, "7.2")) == KVM
    assert detect(kernel) == first
    assert machine.started == 2


def test_kernel_that_was_built_anew_is_tried_again(
    machine: type[PretendedMachine], kernel: Kernel
) -> None:
    machine.failure = HUNG
    assert not detect(kernel).kvm
    machine.failure = None
    kernel.image.write_text("mended")
    assert detect(kernel) == KVM


def test_kvm_with_which_two_kernels_of_distributions_fail_is_not_tried_with_a_third(
    machine: type[PretendedMachine], kernel: Kernel, tmp_path: Path
) -> None:
    machine.failure = HUNG
    detect(kernel)
    assert said(made(tmp_path, "6.12")) == "Linux 6.12 hung"
    assert said(made(tmp_path, "7.2")) == "Linux 6.12 hung"
    assert said(made(tmp_path, "own", lease=None)) == "Linux 6.12 hung"
    assert said(kernel) == "Linux 6.1.0-50-amd64 hung"
    assert machine.started == 2


def test_kernels_that_people_built_say_nothing_of_others(
    machine: type[PretendedMachine], kernel: Kernel, tmp_path: Path
) -> None:
    machine.failure = ENDED
    for name in ("first", "second", "third"):
        assert said(made(tmp_path, name, lease=None)).startswith(f"Linux {name} ended")
    machine.failure = None
    assert detect(kernel) == KVM
    assert machine.started == 4


def test_kvm_is_tried_once(machine: type[PretendedMachine], kernel: Kernel) -> None:
    first = detect(kernel)
    assert detect(kernel) == first
    assert machine.started == 1


def test_kvm_is_tried_once_where_the_cache_can_not_be_written(
    machine: type[PretendedMachine],
    kernel: Kernel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    instead = tmp_path / "instead"
    instead.mkdir(mode=0o700)
    monkeypatch.setenv(cache._INSTEAD, str(instead))
    cache._instead.cache_clear()
    monkeypatch.setattr(cache, "_can_write", lambda _path: False)

    first = detect(kernel)

    assert detect(kernel) == first
    assert machine.started == 1
    assert not (tmp_path / "cache").exists()
    cache._instead.cache_clear()


def test_kvm_is_tried_again_with_another_qemu(
    machine: type[PretendedMachine], kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect(kernel)
    use_qemu(tmp_path / "QEMU 10", monkeypatch)
    detect(kernel)
    assert machine.started == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"key": 1})])
def test_damaged_cache_is_no_answer(
    machine: type[PretendedMachine], kernel: Kernel, tmp_path: Path, text: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kvm.json").write_text(text)
    assert detect(kernel).kvm
    assert machine.started == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"works": 1},
        {"failed": ["hung"]},
        {"failed": {"6.1": 7}},
        {"believed": "6.1"},
        {"believed": ["6.1", "6.12"]},
    ],
    ids=str,
)
def test_damaged_part_is_no_answer(
    machine: type[PretendedMachine], kernel: Kernel, tmp_path: Path, damage: dict[str, object]
) -> None:
    machine.failure = HUNG
    detect(kernel)
    file = tmp_path / "cache/kvm.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | damage))
    machine.failure = None
    assert detect(kernel) == KVM


def test_no_device(
    machine: type[PretendedMachine], kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvm, "_DEVICE", Path("/dev/none"))
    assert detect(kernel) == Acceleration(kvm=False, reason="TCG: there is no /dev/none")
    assert machine.started == 0


def test_device_of_others(
    machine: type[PretendedMachine], kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert detect(kernel).reason.endswith("kvm (group kvm)")
    assert machine.started == 0
