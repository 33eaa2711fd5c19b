"""What a guest of another architecture says of the host's extension modules."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import guest
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from pathlib import Path

IMPORT = """
import sys, worker
worker._use_packages_of_another_machine(sys.argv[1:])
import importlib
try:
    importlib.import_module("{}")
except ModuleNotFoundError as error:
    print(f"{{error.name}}: {{error}}")
else:
    print("imported")
"""


def imported(name: str, site: Path) -> str:
    """Return what comes of importing a module as a guest does, from a site of the host."""
    program = IMPORT.format(name)
    done = subprocess.run(
        [sys.executable, "-c", program, str(site)],
        env=os.environ | {"PYTHONPATH": str(guest.DIRECTORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("fast.cpython-311-other-linux-gnu.so", "fast"),
        ("fast.abi3.so", "fast"),
        ("package/fast.so", "package.fast"),
    ],
)
def test_extension_module_of_the_host(tmp_path: Path, file: str, name: str) -> None:
    built = write(tmp_path / file, "x")
    write(tmp_path / "package/__init__.py")
    assert imported(name, tmp_path) == (
        f"{name}: {built} is compiled for the host, and this guest is {os.uname().machine}: of the"
        " host's packages it can import modules in Python only"
    )


def test_other_modules_are_found_or_not_as_ever(tmp_path: Path) -> None:
    write(tmp_path / "slow.py")
    write(tmp_path / "faster.so", "x")
    (tmp_path / "way.pth").write_text(str(write(tmp_path / "more/far.py").parent))
    assert imported("slow", tmp_path) == imported("far", tmp_path) == "imported"
    assert imported("fast", tmp_path) == "fast: No module named 'fast'"
    assert imported("_ctypes", tmp_path) == "imported"
