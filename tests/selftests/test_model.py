"""Lives without a kernel: the oracle's answers, and lives as text."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.selftests.conformance.rows import ROWS
from pytest_bpflink.selftests.model.life import Life
from pytest_bpflink.selftests.model.oracle import Oracle

if TYPE_CHECKING:
    from collections.abc import Callable

Kernel = SimpleNamespace

IDS = {"egress": "cgroup-egress", "raw_tp": "raw_tp", "fentry": "fentry", "xdp": "xdp-generic"}


@pytest.fixture
def oracle_of() -> Callable[..., Oracle]:
    """Make the oracle of a kernel."""
    rows = {name: row for name, number in IDS.items() for row in ROWS if row.id == number}

    def make(*version: int) -> Oracle:
        kernel: Any = Kernel(version=version)
        return Oracle(kernel, rows)

    return make


def test_pin_alone_keeps_a_link(oracle_of: Callable[..., Oracle]) -> None:
    oracle = oracle_of(7, 2, 13)
    assert oracle.attach("a", "egress", "first") == 0
    assert oracle.pin("a", "bpffs", "x") == 0
    assert oracle.destroy("a") == 0
    assert (oracle.alive(), oracle.runs("egress")) == (["a"], (1, 0))
    assert oracle.unlink("bpffs", "x") == 0
    assert (oracle.alive(), oracle.runs("egress"), oracle.is_late) == ([], (0, 0), True)


def test_bind_mount_keeps_pins(oracle_of: Callable[..., Oracle]) -> None:
    oracle = oracle_of(7, 2, 13)
    oracle.attach("a", "egress", "first")
    oracle.pin("a", "bpffs", "x")
    oracle.bind()
    oracle.destroy("a")
    oracle.unmount("bpffs")
    oracle.mount()
    assert oracle.open("b", "bpffs", "x") == errno.ENOENT
    assert oracle.open("b", "elsewhere", "x") == 0
    oracle.destroy("b")
    oracle.unmount("elsewhere")
    assert oracle.alive() == []


def test_which_error_wins(oracle_of: Callable[..., Oracle]) -> None:
    oracle = oracle_of(7, 2, 13)
    oracle.attach("a", "egress", "first")
    assert oracle.update("a", "second", "second") == errno.EPERM
    assert oracle.end("egress") == 0
    assert oracle.update("a", "second", "second") == errno.ENOLINK
    assert oracle.info("a") == ("first", False)


@pytest.mark.parametrize(("version", "expected"), [((5, 10), errno.ENOENT), ((6, 1), 0)])
def test_trampoline_is_spent_on_old_kernels(
    oracle_of: Callable[..., Oracle], version: tuple[int, ...], expected: int
) -> None:
    oracle = oracle_of(*version)
    oracle.attach("a", "fentry", "first")
    oracle.destroy("a")
    assert oracle.attach("b", "fentry", "first") == expected


def test_life_as_text() -> None:
    life = Life("7.2.13")
    life.add('egress = world.hook("cgroup-egress")', 0)
    life.add("a = egress.attach(egress.first)", 0)
    life.add("b = Link.by_id(a.id)", errno.ENOENT)
    life.check("egress.runs()", "(1, 0)", is_late=True)
    assert str(life).partition("# Linux ")[2] == (
        "7.2.13\n"
        '    egress = world.hook("cgroup-egress")\n'
        "    a = egress.attach(egress.first)\n"
        "    with refused(errno.ENOENT):\n"
        "        b = Link.by_id(a.id)\n"
        "    eventually(lambda: egress.runs() == (1, 0))\n"
        "    world.end(a)\n"
    )
