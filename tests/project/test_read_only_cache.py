"""A cache that can't be written serves what is there; the rest is made in a temporary place."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.guest_project import KERNEL, command, make_project
from tests.support.long import long
from tests.support.nobody import run_as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOTED = "the guest is booted, since it can't be restored"


class Project:
    """A project with a test that passes in a guest, and a cache of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.environment = make_project(directory)

    def run(self, before: list[str]) -> str:
        """Run the test by the words BEFORE its command; return the output."""
        return subprocess.run(
            [*before, *command("--kernel", KERNEL)],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=200,
        ).stdout

    def run_read_only(self) -> str:
        """Run the test where the cache is on a read-only mount, for root too."""
        cache = shlex.quote(str(self.cache))
        script = f'mount --bind {cache} {cache} && mount -o remount,ro,bind {cache} && exec "$@"'
        return self.run(["unshare", "--mount", "sh", "-c", script, "sh"])

    def files(self) -> dict[Path, int]:
        """Return the cache's files with the times of their last change."""
        return {path: path.stat().st_mtime_ns for path in self.cache.rglob("*")}


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    """Make a project, and run its test once, which fills the cache."""
    if os.geteuid() != 0:
        pytest.skip("a read-only mount needs root")
    # Not below root's temporary directories, which others can't enter.
    with tempfile.TemporaryDirectory(prefix="bpflink-read-only-") as directory:
        Path(directory).chmod(0o755)
        made = Project(Path(directory))
        said = made.run([])
        assert "1 passed" in said, said
        yield made


@pytest.fixture
def without_saves(project: Project) -> Iterator[None]:
    """Take away what `project` kept of guests, objects and headers, as long as a test runs."""
    parts = [project.cache / name for name in ("guests", "objects", "vmlinux", "clang")]
    away = project.directory / "away"
    away.mkdir()
    for part in parts:
        part.rename(away / part.name)
    yield
    for part in parts:
        (away / part.name).rename(part)


def test_save_in_a_read_only_cache_is_restored(project: Project) -> None:
    before = project.files()

    said = project.run_read_only()

    assert "1 passed" in said, said
    assert "Traceback" not in said
    assert BOOTED not in said
    assert "compiling" not in said
    assert project.files() == before


@pytest.mark.usefixtures("without_saves")
@long
def test_guest_is_booted_without_a_save_in_a_read_only_cache(project: Project) -> None:
    before = project.files()

    said = project.run_read_only()

    assert "1 passed" in said, said
    assert "Traceback" not in said
    assert f"{BOOTED}: {project.cache}/guests can't be written: Read-only file system" in said
    # The guest finds the object in the temporary place, since clang fails there.
    assert "compiling it.bpf.c" in said
    assert project.files() == before


@long
def test_cache_of_root_serves_other_users(project: Project) -> None:
    before = project.files()

    done = run_as_nobody(
        command("--kernel", KERNEL), cwd=project.directory, env=project.environment
    )

    assert "1 passed" in done.stdout, done.stdout
    assert "Traceback" not in done.stdout
    # Root's saves hold the memory of a kernel, which others can't read.
    assert f"{BOOTED}: {project.cache}/guests can't be written: Permission denied" in done.stdout
    assert "compiling" not in done.stdout
    assert project.files() == before
