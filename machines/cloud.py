"""A kernel without 9p, of Debian's cloud flavour: packed guests, saved, restored and cold."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from .stage import LIFE, SELFTESTS, SessionError, Stage, counts

if TYPE_CHECKING:
    from pathlib import Path

# What the header says of such a kernel, and the error of a plain guest.
_HEADER = "; packed: no 9p"
_REFUSAL = "it has no 9p, by which a plain guest has this host's root"

# For a command in such a guest: a file of the project, a module of the kernel, programs.
_COMMAND = "test -f pyproject.toml && modprobe dummy && ls -d /sys/module/dummy && uname -r"


def run(stage: Stage) -> str:
    """Run the tests of links' lives on such a kernel, and return how they went."""
    stage.packages()
    kernel = _kernel(stage)
    variables = {"BPFLINK_CACHE": str(stage.directory / "cache")}

    def pytest(*arguments: str | Path) -> str:
        command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", *arguments)
        return stage.run(*command, "--kernel", kernel, seconds=900, variables=variables)

    saved = pytest(*LIFE)
    start = time.monotonic()
    restored = pytest(*LIFE)
    seconds = time.monotonic() - start
    for output in (saved, restored):
        _expect(output, _HEADER)
    if counts(saved) != counts(restored):
        raise SessionError(f"saved: {counts(saved)}; restored: {counts(restored)}")
    cold = counts(pytest(SELFTESTS / "test_link_pinning.py", "--kernel-guest", "cold"))
    try:
        pytest(SELFTESTS / "test_link_pinning.py", "--kernel-guest", "plain")
    except SessionError as error:
        _expect(str(error), _REFUSAL)
    else:
        raise SessionError("a plain guest ran")
    command = (sys.executable, "-m", "pytest_bpflink.cli", "vm", kernel, "--")
    said = stage.run(*command, "sh", "-c", _COMMAND, seconds=300, variables=variables)
    _expect(said, f"/sys/module/dummy\n{kernel.name}\n")
    return f"Linux {kernel.name}: {counts(restored)}, restored in {seconds:.0f} s; cold: {cold}"


def _kernel(stage: Stage) -> Path:
    """Fetch this suite's newest kernel for clouds; return its tree, named as its release."""
    architecture = stage.run("dpkg", "--print-architecture", seconds=10).split()[-1]
    depends = stage.run("apt-cache", "depends", f"linux-image-cloud-{architecture}", seconds=60)
    found = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
    if not found:
        raise SessionError(f"Debian has no kernel for clouds on {architecture}")
    stage.run("apt-get", "download", found[0], seconds=600, cwd=stage.directory)
    (package,) = stage.directory.glob(f"{found[0]}_*.deb")
    tree = stage.directory / found[0].removeprefix("linux-image-")
    stage.run("dpkg", "-x", package, tree, seconds=300)
    stage.run("depmod", "-b", tree, tree.name, seconds=300)
    return tree


def _expect(output: str, text: str) -> None:
    if text not in output:
        raise SessionError(f"not said: {text!r}, but\n{output[-2000:]}")
