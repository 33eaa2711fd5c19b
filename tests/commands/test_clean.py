"""`bpflink clean` removes the remains of dead runs, and nothing that living runs use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.introspection import pins
from tests.support.command import bpflink

if TYPE_CHECKING:
    from collections.abc import Iterator

# A run that makes one thing of each kind, prints their paths, and waits.
RUN = """
import sys, time
from pathlib import Path
from pytest_bpflink import BpfFs
from pytest_bpflink.ledger.estate import Estate
from pytest_bpflink.vm.scratch import Scratch

estate, scratch = Estate.found(), Scratch()
mount = estate.directory / "bpffs"
mount.mkdir()
BpfFs.mount(mount)
estate.record_pin(Path("/sys/fs/bpf/nothing"), 7)
print(estate.directory, mount, estate.make_cgroup(), scratch.path.parent, flush=True)
time.sleep(600)
"""

DAY = 24 * 3600


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use directories of this test alone: other runs on this machine sweep, too."""
    monkeypatch.setenv("BPFLINK_RUN_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def left() -> Iterator[tuple[subprocess.Popen[str], list[Path]]]:
    """Start a run, and return the paths of its estate, mount, cgroup and temporary files."""
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        yield run, [Path(word) for word in run.stdout.readline().split()]
        run.kill()


def clean(*arguments: str) -> list[dict[str, Any]]:
    done = bpflink("clean", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_what_a_killed_run_left_is_shown_and_removed(
    left: tuple[subprocess.Popen[str], list[Path]],
) -> None:
    run, (estate, mount, cgroup, temporary) = left
    assert clean() == []  # it is alive
    run.kill()
    run.wait()

    shown = clean("--dry-run")

    assert shown == [
        {
            "kind": "run on this kernel",
            "path": str(estate),
            "holds": [f"BPF FS {mount}", "pin /sys/fs/bpf/nothing", f"cgroup {cgroup}"],
            "size": 0,
            "removed": False,
        },
        {
            "kind": "temporary files",
            "path": str(temporary),
            "holds": [],
            "size": 0,
            "removed": False,
        },
    ]
    assert mount in set(pins.mounts())

    assert clean() == [row | {"removed": True} for row in shown]

    assert not any(path.exists() for path in (estate, cgroup, temporary))
    assert mount not in set(pins.mounts())
    assert bpflink("clean").stdout == "there is nothing to remove\n"


def test_saved_guests_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    for name, days in (("used", 2), ("unused", 40)):
        save = tmp_path / "cache/guests" / name
        save.mkdir(parents=True)
        (save / "memory").write_bytes(bytes(10_000))
        (save / "save.json").write_text("{}")
        then = time.time() - days * DAY
        os.utime(save / "save.json", (then, then))

    (row,) = clean()

    assert (row["kind"], row["path"]) == ("saved guest", str(tmp_path / "cache/guests/unused"))
    assert row["size"] >= 10_000
    assert row["removed"]
    assert (tmp_path / "cache/guests/used").exists()
    assert [each["path"] for each in clean("--unused-days", "1", "--dry-run")] == [
        str(tmp_path / "cache/guests/used")
    ]


def test_compiled_programs_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    for part in ("objects", "sources", "sent"):
        for name, days in (("used", 2), ("unused", 40), (".removed-unused", 41)):
            entry = tmp_path / "cache" / part / name
            entry.mkdir(parents=True)
            (entry / "file").write_bytes(bytes(10_000))
            then = time.time() - days * DAY
            os.utime(entry, (then, then))

    rows = clean("--dry-run")

    assert [row["kind"] for row in rows] == [
        "compiled programs",
        "programs from the text of tests",
        "programs that guests sent",
    ]
    assert rows[0]["path"] == str(tmp_path / "cache/objects")
    assert rows[0]["holds"] == ["2 not used for 30 days"]
    assert 20_000 <= rows[0]["size"] < 30_000
    assert clean() == [row | {"removed": True} for row in rows]
    left = sorted(str(each) for each in (tmp_path / "cache").glob("*/*"))
    assert left == [
        str(tmp_path / "cache" / part / "used") for part in ("objects", "sent", "sources")
    ]
    assert [row["holds"] for row in clean("--unused-days", "1")] == [["1 not used for 1 days"]] * 3


def test_guest_that_a_killed_run_was_saving_is_removed(tmp_path: Path) -> None:
    remains = tmp_path / "cache/guests/.saving-0123-1"
    remains.mkdir(parents=True)
    (remains / "memory").write_bytes(bytes(8192))

    (row,) = clean("--dry-run")

    assert (row["kind"], row["path"]) == ("unfinished saved guest", str(remains))
    assert row["size"] == 8192
    assert clean() == [row | {"removed": True}]
    assert not remains.exists()


def test_remains_that_can_not_be_removed_are_a_failure(
    left: tuple[subprocess.Popen[str], list[Path]],
) -> None:
    run, (estate, mount, cgroup, _) = left
    busy = estate / "busy"
    busy.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", busy], check=True)
    run.kill()
    run.wait()

    done = bpflink("clean")

    assert done.returncode == 1
    refused = f"{estate}, left by a killed session, can't be removed: [Errno 16] "
    assert f"bpflink: {refused}Device or resource busy: 'busy'" in done.stderr
    assert done.stdout.splitlines()[2].startswith("run on this kernel   stays ")
    assert mount not in set(pins.mounts())
    assert not cgroup.exists()
    subprocess.run(["umount", busy], check=True)
    assert bpflink("clean").returncode == 0
    assert not estate.exists()
