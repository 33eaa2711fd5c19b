"""How guests run: on the hardware, or emulated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Acceleration:
    """KVM, or QEMU's emulation (TCG) where `kvm` is false; `reason` is one phrase that says why."""

    kvm: bool
    reason: str
