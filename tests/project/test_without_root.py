"""A user without root, with a home of their own, runs the README's first test in a guest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.kernels import Store
from tests.support.installed import install
from tests.support.nobody import NOBODY, run_as_nobody
from tests.support.pages import README, read

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def home() -> Iterator[Path]:
    """Make a directory that the user nobody owns, outside root's temporary directories."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    tried = run_as_nobody([sys.executable, "-c", "import pytest"])
    if tried.returncode:
        pytest.skip(f"another user can't run {sys.executable} here: {tried.stdout.strip()}")
    with tempfile.TemporaryDirectory(prefix="bpflink-home-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


@pytest.fixture
def kernel(home: Path) -> str:
    """Put a kernel into this user's own store, as if it had been fetched there."""
    spec = "6.12"
    kernels.find(spec)
    store = home / ".cache/pytest-bpflink/kernels"
    store.mkdir(parents=True)
    for directory in (home / ".cache", home / ".cache/pytest-bpflink", store):
        os.chown(directory, NOBODY, NOBODY)
    (stored,) = (each for each in Store().kernels() if each.upstream.startswith(f"{spec}."))
    shutil.copytree(
        stored.path, store / stored.path.name, symlinks=True, copy_function=link_or_copy
    )
    return spec


def link_or_copy(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, destination, follow_symlinks=False)


def test_first_test_of_the_readme(wheel: Path, home: Path, kernel: str) -> None:
    python = install(wheel, home / "venv")
    empty = home / "empty"
    empty.mkdir()
    os.chown(empty, NOBODY, NOBODY)
    files = read(README).files
    for name in ("counter.bpf.c", "test_counter.py"):
        empty.joinpath(name).write_text(files[name])

    done = run_as_nobody(
        [str(python), "-m", "pytest", "-rs", "--kernel", f"native,{kernel}", "test_counter.py"],
        cwd=empty,
        env={"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )

    assert "1 passed, 1 skipped" in done.stdout, done.stdout
    assert "--kernel 6.12 runs the test in a VM, where it is root whoever you are" in done.stdout
    assert {file.stat().st_uid for file in home.glob(".cache/pytest-bpflink/guests/*")} == {NOBODY}


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_root_of_a_guest_uses_no_temporary_directory_of_the_host(tmp_path: Path, mode: int) -> None:
    """A guest's root can't read a directory of the host's root; pytest refuses other users'."""
    if os.geteuid() != 0:
        pytest.skip("being root without its powers needs root")
    theirs = tmp_path / "pytest-of-somebody"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    theirs.chmod(mode)
    (tmp_path / "test_it.py").write_text(
        "def test_it(tmp_path): assert not any(tmp_path.iterdir())"
    )
    powers = "-dac_override,-dac_read_search"
    for _ in range(5):
        done = subprocess.run(
            [
                *("setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"),
                *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"),
            ],
            cwd=tmp_path,
            env=os.environ | {"TMPDIR": str(tmp_path), "LOGNAME": "somebody"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert "= 1 passed in" in done.stdout, done.stdout

    # As many as pytest keeps in its usual directory.
    own = tmp_path / "pytest-bpflink-0"
    assert sorted(tmp_path.glob("pytest-*")) == [own, theirs]
    assert len([*(own / "pytest-of-somebody").glob("pytest-[0-9]*")]) == 3
