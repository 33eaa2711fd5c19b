"""A kernel with everything built in, made from Debian's sources: warm, cold and plain guests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .kernel_build import PACKAGES
from .stage import EACH_TYPE, LIFE, Counts, SessionError, Stage

if TYPE_CHECKING:
    from pathlib import Path

_KINDS = ("warm", "cold", "plain")


def run(stage: Stage) -> str:
    """Build the kernel, or take it from the cache, and run the tests of links on it."""
    stage.packages(*PACKAGES)
    kernel = stage.run("tools/small-kernel", seconds=3600).splitlines()[-1]
    checked = stage.run(*_bpflink("kernels", "check", kernel), seconds=60)
    if "selftests: nothing is missing" not in checked:
        raise SessionError(f"the kernel lacks options of its own fragment:\n{checked}")
    found = Counts()
    for kind in _KINDS:
        found += stage.pytest(
            *LIFE,
            EACH_TYPE,
            *("--kernel", kernel, "--kernel-guest", kind, "--bpf-libbpf", "newest"),
            reasons="needs libbpf",  # the kernel lacks nothing
        )
    return f"{found} in {', '.join(_KINDS)} guests"


def _bpflink(*arguments: str | Path) -> tuple[str | Path, ...]:
    return (sys.executable, "-m", "pytest_bpflink.cli", *arguments)
