"""Lives of links that Hypothesis makes up, for a minute on 5.10 and on 7.2, beside an oracle."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .stage import SELFTESTS, SessionError

if TYPE_CHECKING:
    from .stage import Stage

KERNELS = ("5.10", "7.2")
SECONDS = 60


def run(stage: Stage) -> str:
    """Live, and return how many lives passed on each kernel."""
    said = []
    for kernel in KERNELS:
        report = stage.directory / f"{kernel}.xml"
        stage.pytest(
            SELFTESTS / "test_link_model.py",
            *("--kernel", kernel, "--bpf-libbpf", "newest", "--junitxml", report),
            *("--bpf-model-seconds", str(SECONDS)),
        )
        found = re.search(r'name="model" value="([^:]*)', report.read_text())
        if not found:
            raise SessionError(f"{kernel}: nothing is said of lives in {report}")
        said.append(f"{kernel}: {found[1]}")
    return "; ".join(said)
