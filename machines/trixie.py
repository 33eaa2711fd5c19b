"""Debian 13 in a chroot: the tutorial's and the README's commands, and link_pinning on KERNELS."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from .stage import Counts, SessionError

if TYPE_CHECKING:
    from .stage import Stage

SUITE = "trixie"
KERNELS = os.environ.get("KERNELS", "5.10,6.1,6.12,7.2")


def run(stage: Stage) -> str:
    """Make the chroot, and return what passed in it."""
    stage.packages("debootstrap")
    # The chroot sees this machine's store, and can't write it.
    command = (sys.executable, "-m", "pytest_bpflink.cli", "kernels", "fetch", *KERNELS.split(","))
    stage.run(*command, seconds=900)
    output = stage.run("tools/other-debian", SUITE, seconds=1800, variables={"KERNELS": KERNELS})
    parts = re.split(r"^==> (\w+)$", output, flags=re.MULTILINE)
    passed = {name: _sum(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}
    if passed.keys() != {"tutorial", "readme", "project"}:
        raise SessionError(f"not all parts ran: {', '.join(passed)}")
    return f"{_qemu(output)}: " + "; ".join(f"{name} {count}" for name, count in passed.items())


def _sum(text: str) -> Counts:
    """Return the counts of all runs of pytest in a part, of which none may end with warnings."""
    ends = "\n".join(re.findall(r"^=+ .* in [0-9.]+s.* =+$", text, re.MULTILINE))
    passed, skipped = (
        sum(map(int, re.findall(rf"(\d+) {outcome}", ends))) for outcome in ("passed", "skipped")
    )
    if not passed or "warning" in ends:
        raise SessionError(f"not as it should be: {ends or text[-500:]}")
    return Counts(passed, skipped)


def _qemu(output: str) -> str:
    found = re.search(r"^QEMU emulator version (\S+)", output, re.MULTILINE)
    return f"QEMU {found[1]}" if found else "an unknown QEMU"
