"""Temporary directories, and the removal of directories that a killed process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import host_files
from pytest_bpflink.vm.scratch import Scratch, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for temporary files that nobody else uses."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def another() -> Iterator[subprocess.Popen[str]]:
    """Another process, with a file in its scratch directory."""
    program = (
        "from pytest_bpflink.vm.scratch import Scratch\n"
        "scratch = Scratch()\n"
        "(scratch.path / 'launch.sh').write_text('secret')\n"
        "print(scratch.path, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_scratch_is_private_and_removed_with_its_files(temporary: Path) -> None:
    with Scratch() as scratch:
        (scratch.path / "owner").write_text("any name is free")
        assert scratch.path.stat().st_mode & 0o777 == 0o700
        assert scratch.path.parent.stat().st_mode & 0o777 == 0o700
    scratch.close()

    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_process_left_is_swept(
    temporary: Path, another: subprocess.Popen[str], end: signal.Signals
) -> None:
    (left,) = temporary.iterdir()
    another.send_signal(end)
    another.wait()
    assert left.exists()

    assert sweep() == [left]
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("another")
def test_directory_of_a_living_process_stays() -> None:
    with Scratch() as own:
        assert sweep() == []
        # This process must still hold its lock after `sweep` has tried to take it.
        looking = [sys.executable, "-c", "from pytest_bpflink.vm.scratch import *; print(sweep())"]
        assert subprocess.check_output(looking, text=True) == "[]\n"
        assert own.path.exists()


@pytest.mark.parametrize(
    ("command_line", "swept"),
    [
        ("BOOT_IMAGE=/vmlinuz-6.1 root=/dev/sda1 quiet", True),
        ("console=ttyS0 rdinit=/bpflink/agent.py PYTHONHASHSEED=0", False),
        ('"virtme_link_mods=/a b/lib" virtme_hostname=vng init=/bin/sh', False),
    ],
)
def test_guest_sweeps_nothing_that_may_be_its_host_s(
    temporary: Path,
    another: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    command_line: str,
    swept: bool,
) -> None:
    another.kill()
    another.wait()
    line = temporary / "cmdline"
    line.write_text(f"{command_line}\n")
    monkeypatch.setattr(host_files, "_COMMAND_LINE", line)
    # In a container /run may be on the file system that has /tmp.
    monkeypatch.setattr(host_files, "_OWN", ("/proc",))
    host_files.in_guest.cache_clear()

    try:
        assert bool(sweep()) == swept
    finally:
        host_files.in_guest.cache_clear()


def test_file_that_only_has_such_a_name_stays(temporary: Path) -> None:
    (temporary / "bpflink-results").mkdir()
    (temporary / "bpflink-log").write_text("")
    (temporary / "bpflink-link").symlink_to(temporary / "bpflink-results")

    assert sweep() == []
    assert len(list(temporary.iterdir())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_directory_that_another_user_left_stays(
    temporary: Path, another: subprocess.Popen[str]
) -> None:
    another.kill()
    another.wait()
    (left,) = temporary.iterdir()
    os.chown(left, 65534, 65534)

    assert sweep() == []
    assert left.exists()
