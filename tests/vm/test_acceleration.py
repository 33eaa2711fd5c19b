"""The choice of an acceleration, and how often KVM is tried; the machines are fakes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Self

import pytest

from pytest_bpflink.vm import cache
from pytest_bpflink.vm.kernels import Kernel
from pytest_bpflink.vm.machines import kvm
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.machines.kvm import detect

KERNEL = Kernel("6.1", "6.1", "6.1.0", Path("/vmlinuz"), None, {})


class PretendedMachine:
    """A machine whose guest boots, or fails with `failure`."""

    failure: BootFailed | None = None
    started = 0

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def start(self) -> None:
        type(self).started += 1

    def wait_ready(self, _timeout: float) -> None:
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
    monkeypatch.setattr(kvm, "_qemu", lambda: "QEMU 7.2")
    monkeypatch.setattr(kvm, "Machine", Machine)
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    return Machine


def test_kvm_with_which_a_kernel_boots(machine: type[PretendedMachine]) -> None:
    assert detect(KERNEL) == Acceleration(kvm=True, reason="KVM")
    assert machine.started == 1


@pytest.mark.parametrize(
    ("timed_out", "phrase"), [(True, "guests hang for 20 s"), (False, "guests crash")]
)
def test_kvm_with_which_no_kernel_boots(
    machine: type[PretendedMachine],
    *,
    timed_out: bool,
    phrase: str,
) -> None:
    machine.failure = BootFailed("nothing", timed_out=timed_out)
    found = detect(KERNEL)
    assert not found.kvm
    assert found.reason.startswith("TCG: with ")
    assert found.reason.endswith(phrase)


def test_kvm_is_tried_once(machine: type[PretendedMachine]) -> None:
    first = detect(KERNEL)
    assert detect(KERNEL) == first
    assert machine.started == 1


def test_kvm_is_tried_once_where_the_cache_can_not_be_written(
    machine: type[PretendedMachine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead = tmp_path / "instead"
    instead.mkdir(mode=0o700)
    monkeypatch.setenv(cache._INSTEAD, str(instead))
    cache._instead.cache_clear()
    monkeypatch.setattr(cache, "_can_write", lambda _path: False)

    first = detect(KERNEL)

    assert detect(KERNEL) == first
    assert machine.started == 1
    assert not (tmp_path / "cache").exists()
    cache._instead.cache_clear()


def test_kvm_is_tried_again_with_another_qemu(
    machine: type[PretendedMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    detect(KERNEL)
    monkeypatch.setattr(kvm, "_qemu", lambda: "QEMU 9.0")
    detect(KERNEL)
    assert machine.started == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"key": 1})])
def test_damaged_cache_is_no_answer(
    machine: type[PretendedMachine], tmp_path: Path, text: str
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kvm.json").write_text(text)
    assert detect(KERNEL).kvm
    assert machine.started == 1


def test_no_device(machine: type[PretendedMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "_DEVICE", Path("/dev/none"))
    assert detect(KERNEL) == Acceleration(kvm=False, reason="TCG: there is no /dev/none")
    assert machine.started == 0


def test_device_of_others(machine: type[PretendedMachine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert detect(KERNEL).reason.endswith("kvm (group kvm)")
    assert machine.started == 0
