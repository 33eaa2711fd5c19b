"""Tests of links on Linux 6.12 for riscv64, emulated: pinning, cgroups, lifetime, and each type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .architectures import run_on

if TYPE_CHECKING:
    from .stage import Stage


def run(stage: Stage) -> str:
    """Run the tests on riscv64:6.12."""
    return run_on("riscv64", stage)
