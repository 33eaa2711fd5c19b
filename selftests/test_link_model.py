"""Lives of links that Hypothesis makes up: an oracle predicts each step that the kernel does.

docs/howto/model.md says how to repeat a life, and how to read one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("hypothesis", reason="needs Hypothesis: pip install 'pytest-bpflink[model]'")

from pytest_bpflink.selftests.model.lives import Lived, live

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.model.world import World

# A life that nobody has tried may kill its kernel.
pytestmark = [
    pytest.mark.guest_only,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def test_lives(
    request: pytest.FixtureRequest,
    world: World,
    model_rows: dict[str, Row],
    bpf_kernel: KernelInfo,
) -> None:
    """Whatever is done to a handful of links, the kernel answers and does what the oracle says."""
    chosen = request.config.getoption("bpf_model_seed")
    lived = Lived(int(time.time()) if chosen is None else chosen)
    world.is_logged = chosen is not None
    began = time.monotonic()
    while True:
        live(world, model_rows, bpf_kernel, lived=lived)
        took = time.monotonic() - began
        if chosen is not None or took > request.config.getoption("bpf_model_seconds"):
            break
    rate = f"{lived} in {took:.0f} s ({lived.lives / took:.1f} a second)"
    request.node.user_properties.append(("model", f"{rate}: {', '.join(model_rows)}"))
