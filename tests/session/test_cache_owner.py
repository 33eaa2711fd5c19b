"""pytest's cache in a project of another user's, after a run as root."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.nobody import NOBODY, run_as_nobody
from tests.support.sessions import run_session

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")

_TEST = "def test_failing(): raise AssertionError\n"


@pytest.fixture
def project() -> Iterator[Path]:
    """Make a project of the user nobody, who can't enter `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        yield _project(Path(name))


def _project(directory: Path) -> Path:
    (directory / "test_it.py").write_text(_TEST)
    (directory / "pytest.ini").write_text("[pytest]\n")
    for path in (directory, *directory.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    return directory


def test_owner_can_write_the_cache_after_a_run_as_root(project: Path) -> None:
    assert run_session(project, "test_it.py").ret == 1
    assert (project / ".pytest_cache/v/cache/lastfailed").stat().st_uid == NOBODY
    (project / "test_it.py").write_text(_TEST + "def test_more(): pass\n")

    command = [sys.executable, "-m", "pytest", "-W", "error", "test_it.py", "--basetemp=base"]
    done = run_as_nobody(command, cwd=project)

    assert "1 failed, 1 passed in" in done.stdout
    assert "warning" not in done.stdout
    assert "test_more" in (project / ".pytest_cache/v/cache/nodeids").read_text()


def test_root_s_own_files_stay_root_s(project: Path, tmp_path: Path) -> None:
    """The owner of the project may plant links in the cache."""
    names = ("secret", "other", "linked", "pipe")
    secret, other, linked, pipe = (tmp_path / name for name in names)
    secret.touch()
    other.touch()
    (linked / "below").mkdir(parents=True)
    os.mkfifo(pipe)
    cache = project / ".pytest_cache"
    cache.mkdir()
    os.link(secret, cache / "hard")
    os.symlink(other, cache / "soft")
    os.symlink(linked, cache / "directory")
    os.link(pipe, cache / "pipe")

    run_session(project, "test_it.py")

    assert (cache / "v").stat().st_uid == NOBODY
    paths = (secret, other, linked, linked / "below", pipe)
    assert [path.stat().st_uid for path in paths] == [0, 0, 0, 0, 0]


def test_cache_elsewhere_stays_root_s(project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    run_session(project, "test_it.py", "-o", f"cache_dir={elsewhere}")
    assert (elsewhere / "v/cache/lastfailed").stat().st_uid == 0


def test_project_of_root_s_has_root_s_cache(project: Path) -> None:
    os.chown(project, 0, 0)
    run_session(project, "test_it.py")
    assert (project / ".pytest_cache/v").stat().st_uid == 0
