"""Measures how many lives of links a second Hypothesis makes up in guests, each step compared.

    python bench/bench_model.py [--seconds 20] [KERNEL...]

Needs the named kernels in the store. Nothing here is a test: times depend on the machine and its
load, so compare only times of one run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

KERNELS = ["5.10", "7.2"]

MODEL = Path(__file__).resolve().parent.parent / "selftests/test_link_model.py"


def main() -> None:
    """Live on one kernel after the other, and print what the tests say."""
    parser = argparse.ArgumentParser(description="Measure lives of links")
    parser.add_argument("kernels", nargs="*", default=KERNELS)
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    for kernel in options.kernels:
        print(f"{kernel:8}{lived(kernel, options.seconds)}", flush=True)


def lived(kernel: str, seconds: float) -> str:
    """Return what a run on a kernel says of its lives."""
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(MODEL), "-q", "--kernel", kernel]
        command += ["--bpf-model-seconds", str(seconds), f"--junitxml={report}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r'name="model" value="([^"]*)"', report.read_text())
        return found[1] if found else f"failed:\n{done.stdout[-2000:]}"


if __name__ == "__main__":
    main()
