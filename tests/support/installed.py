"""The project as its users get it: built, and installed in a fresh virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution."""
    return build("--sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the checkout."""
    return build("--wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def fresh_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a fresh virtual environment, and return its Python."""
    return install(wheel, tmp_path_factory.mktemp("fresh") / "venv")


def install(wheel: Path, directory: Path) -> Path:
    """Make a virtual environment with a wheel in it, and return its Python.

    A `.pth` file adds this environment's packages, so that the dependencies need no network. This
    environment's editable install is not found: Python reads no `.pth` files in added directories.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python: Path = directory / "bin/python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.check_output([python, "-c", show], text=True).strip()
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def build(kind: str, source: Path, directory: Path) -> Path:
    """Build a distribution without a network: the build backend is a development dependency."""
    run_build(kind, source, directory, environment={})
    (built,) = directory.iterdir()
    return built


def run_build(
    kind: str, source: Path, directory: Path, *, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Build a distribution, and return the finished process with its output."""
    return subprocess.run(
        [sys.executable, "-m", "build", kind, "--no-isolation", "--outdir", directory, source],
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_pytest(
    python: Path, directory: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run pytest with a Python in which the project is installed."""
    return subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments],
        cwd=directory,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
