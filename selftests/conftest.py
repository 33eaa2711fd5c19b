"""The fixtures of the conformance suite, whose stages other selftests use as well."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.selftests.conformance.fixtures import (
    found,
    libc_copy,
    link,
    outcome,
    own_target,
    pin,
    places,
    programs,
    shared_bpffs,
    skip_if_absent,
    stage,
)
from pytest_bpflink.selftests.conformance.outcomes import Outcomes
from pytest_bpflink.selftests.conformance.row import Row
from pytest_bpflink.selftests.model.fixtures import model_rows, world

if TYPE_CHECKING:
    import pytest

__all__ = [
    "found",
    "libc_copy",
    "link",
    "model_rows",
    "outcome",
    "own_target",
    "pin",
    "places",
    "programs",
    "shared_bpffs",
    "stage",
    "world",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of lives that Hypothesis makes up."""
    model = parser.getgroup("bpflink-model", "BPF links: lives that Hypothesis makes up")
    model.addoption(
        "--bpf-model-seconds",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="How long test_link_model makes up lives of links (default: %(default)g)",
    )
    model.addoption(
        "--bpf-model-seed",
        type=int,
        metavar="N",
        help="The seed of lives of test_link_model, which a failure names: live only these",
    )


def pytest_runtest_setup(item: pytest.Function) -> None:
    """Write down which row a test is of, and skip it before its fixtures if the row is absent."""
    row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
    if isinstance(row, Row):
        Outcomes(item.user_properties).write("row", f"{row.id} {_system()}")
        skip_if_absent(row)


@cache
def _system() -> str:
    return f"{os.uname().release} {libbpf.version()}"
