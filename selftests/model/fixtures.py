"""The world of lives, which their tests and plain tests of one life share, and its hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.selftests.conformance.rows import ROWS
from pytest_bpflink.selftests.model.world import World
from pytest_bpflink.selftests.support.absence import made_or_absent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_bpflink.selftests.conformance.row import Row

HOOKS = {
    "egress": "cgroup-egress",
    "raw_tp": "raw_tp",
    "fentry": "fentry",
    "kprobe": "kprobe",
    "page_fault": "perf_event",
    "elements": "iter_map_elem",
    "sk_lookup": "sk_lookup",
    "xdp": "xdp-generic",
    "netfilter": "netfilter",
    "tcx": "tcx_ingress",
    "netkit": "netkit_primary",
    "sk_msg": "sk_msg",
}
"""The hooks of lives: their variables, and the rows that say how their links behave."""


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    own_target: None,  # noqa: ARG001 - each hook has a target of its own
    tmp_path: Path,
) -> Iterator[World]:
    """Hooks with targets of their own, processes, a socket and a BPF FS for lives of links."""
    made = World(request, tmp_path)
    yield made
    made.close()


@pytest.fixture
def model_rows(world: World, request: pytest.FixtureRequest) -> dict[str, Row]:
    """The rows of the hooks that this kernel has, by their variables."""
    rows = {row.id: row for row in ROWS}
    found = {}
    for name, row_id in HOOKS.items():
        row = rows[row_id]

        def attach_once(row_id: str = row_id) -> None:
            hook = world.hook(row_id)
            hook.attach(hook.first).destroy()

        try:
            made_or_absent(
                request.config, row_id, attach_once, since=row.since, options=row.options
            )
        except pytest.skip.Exception:
            continue  # the conformance suite says why it skips the row
        found[name] = row
    world.end()
    return found
