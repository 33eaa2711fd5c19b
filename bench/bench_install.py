"""Measures the installed plugin: its size, its dependencies, and the time to import it.

    python bench/bench_install.py

Builds the wheel. Nothing here is a test: times depend on the machine and its load, so compare only
times of one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib import metadata
from pathlib import Path
from statistics import median

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
RUNS = 25

# The code whose import is timed, by the label that is printed.
IMPORTS = {
    "nothing": "pass",
    "pytest": "import pytest",
    "pytest and the plugin": "import pytest, pytest_bpflink.plugin",
    "pytest, the plugin and its fixtures": (
        "import pytest, pytest_bpflink.plugin, pytest_bpflink.fixtures"
    ),
    "pytest_bpflink": "import pytest_bpflink",
    "Link from pytest_bpflink": "from pytest_bpflink import Link",
    "Link, and libbpf loaded": (
        "from pytest_bpflink import Link;"
        " from pytest_bpflink.binding import libbpf; libbpf.version()"
    ),
}


def main() -> None:
    """Measure, and print tables."""
    with tempfile.TemporaryDirectory(prefix="bpflink-bench-") as directory:
        sizes(build(Path(directory)))
    dependencies()
    imports()


def build(directory: Path) -> Path:
    """Build the wheel."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    command += ["--outdir", str(directory), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = directory.iterdir()
    return wheel


def sizes(wheel: Path) -> None:
    """Print the size of the wheel, packed and unpacked."""
    files = zipfile.ZipFile(wheel).infolist()
    objects = [file for file in files if file.filename.endswith(".bpf.o")]
    show("the wheel", wheel.stat().st_size)
    show(f"installed, {len(files)} files", sum(file.file_size for file in files))
    show(f"of these {len(objects)} BPF objects", sum(file.file_size for file in objects))


def dependencies() -> None:
    """Print the size of the plugin's dependencies, and of each extra's further dependencies."""
    before: set[str] = set()
    extras = metadata.metadata("pytest-bpflink").get_all("Provides-Extra") or []
    for extra in ("", *(extra for extra in extras if extra != "dev")):
        needed = required("pytest-bpflink", extra)
        new = needed - before - {"pytest-bpflink"}
        before |= new
        title = f"further with [{extra}]" if extra else "dependencies"
        show(f"{title}: {', '.join(sorted(new))}", sum(map(installed_size, new)))
    print()


def required(name: str, extra: str = "") -> set[str]:
    """Return a distribution and all that it requires, directly or not."""
    found = {name}
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found |= required(requirement.name)
    return found


def installed_size(name: str) -> int:
    """Return the size of a distribution's files in bytes, without compiled modules (.pyc)."""
    files = (Path(str(file.locate())) for file in metadata.files(name) or [])
    return sum(file.stat().st_size for file in files if file.exists() and file.suffix != ".pyc")


def imports() -> None:
    """Print how long Python takes to run each of `IMPORTS`, from compiled modules."""
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(RUNS):
        for name, code in IMPORTS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, cwd=os.sep)
            times[name].append((time.perf_counter() - began) * 1e3)
    print(f"Python {sys.version.split()[0]}, median of {RUNS} processes")
    for name, taken in times.items():
        print(f"{name:50} {median(taken):8.1f} ms")


def show(what: str, size: int) -> None:
    """Print a size."""
    print(f"{size / 1024:8.0f} KiB  {what}")


if __name__ == "__main__":
    main()
