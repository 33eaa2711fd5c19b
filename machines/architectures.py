"""What the sessions of all architectures have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bpflink.vm.architectures import ALL

from .stage import LIFE, SELFTESTS

if TYPE_CHECKING:
    from .stage import Stage

# One question of the conformance suite, which it asks links of every type.
ONE_OF_EACH = f"{SELFTESTS / 'conformance/test_conformance_holding.py'}::test_pin"


def run_on(name: str, stage: Stage) -> str:
    """Run the tests on Linux 6.12 of an architecture twice: its guest is saved, then restored."""
    stage.packages(ALL[name].qemu_package)
    run = ["--kernel", f"{name}:6.12"]
    first = stage.pytest(*LIFE, *run, seconds=1500)
    again = stage.pytest(ONE_OF_EACH, *run)
    return f"{first + again} on {name}:6.12"
