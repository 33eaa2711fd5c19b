"""Guests of a kernel without 9p: a 6.1 whose modules of 9p are not there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import kernels
from tests.support.guest_project import KERNEL, PROGRAM
from tests.support.long import long
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path

LICENSE = 'char LICENSE[] SEC("license") = "GPL";\n'

TESTS = """
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helping import seven
from pytest_bpflink import Object

def test_is_in_a_guest_that_has_no_file_of_the_host():
    assert os.uname().release.startswith("6.1.")
    assert not Path("/proc/filesystems").read_text().count("9p")
    assert not os.path.exists({unsent!r})
    assert Path("data.txt").read_text() == "sent"

def test_program_that_the_host_has_compiled():
    with Object.open("it.bpf.c") as opened:
        assert opened.data["value"] == seven()

def test_link_outlives_its_handle(bpf_object, bpf_link, cgroup, bpffs):
    link = bpf_link(bpf_object("it.bpf.c").program("keep"), cgroup)
    link.pin(bpffs / "it")
    link.destroy()
    assert os.path.exists(bpffs / "it")

def test_modules_are_loaded_by_the_kernel_and_by_programs(netns):
    first, second = netns.veth()
    assert subprocess.run(["modprobe", "tcp_bbr"]).returncode == 0
    assert "bbr" in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text()

def test_writes_stay_in_the_guest(tmp_path):
    Path("written").write_text("lost")
    assert sys.executable == {python!r}
    assert subprocess.check_output([sys.executable, "-c", "print(7)"]) == b"7\\n"

def test_fails():
    assert seven() == 8
"""


@pytest.fixture(scope="module")
def without_9p(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tree of a kernel, by links to the store's, that has no module of 9p."""
    tree = tmp_path_factory.mktemp("a kernel, without") / "6.1"
    source = kernels.find(KERNEL).image.parents[1]
    subprocess.run(["cp", "-a", "--link", source, tree], check=True)
    for module in tree.rglob("9p*.ko*"):
        module.unlink()
    for index in tree.rglob("modules.dep"):
        lines = index.read_text().splitlines(keepends=True)
        index.unlink()
        index.write_text("".join(line for line in lines if "/9p" not in line))
    return tree


@pytest.fixture
def project(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> pytest.Pytester:
    """Make a project that needs more than one file."""
    monkeypatch.setenv("BPFLINK_CACHE", str(CACHE))
    root = pytester.path
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\npythonpath = lib")
    (root / "lib").mkdir()
    (root / "lib/helping.py").write_text("def seven(): return 7\n")
    (root / "it.bpf.c").write_text(PROGRAM.replace("VALUE", "7") + LICENSE)
    (root / "data.txt").write_text("sent")
    unsent = tmp_path / "beside the project"
    unsent.touch()
    text = TESTS.format(unsent=str(unsent), python=sys.executable)
    (root / "test_it.py").write_text(text)
    return pytester


@pytest.mark.parametrize("kind", ["cold", pytest.param("warm", marks=long)])
def test_project_runs_on_a_kernel_without_9p(
    project: pytest.Pytester, without_9p: Path, kind: str
) -> None:
    result = project.runpytest_subprocess(
        f"--kernel={without_9p}", "--kernel-guest", kind, "--kernel-memory", "224"
    )
    result.assert_outcomes(passed=5, failed=1)
    result.stdout.re_match_lines([r"kernel 6\.1\S*: Linux 6\.1\..*; packed: no 9p$"])
    result.stdout.fnmatch_lines(["E *assert 7 == 8"])
    assert not (project.path / "written").exists()


def test_tests_that_are_not_sent(
    project: pytest.Pytester, without_9p: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    outside = shutil.copy(project.path / "test_it.py", tmp_path / "elsewhere")
    result = project.runpytest_subprocess(
        f"--kernel={without_9p}", "--rootdir", project.path, "test_it.py", outside
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert (
        f"--kernel {without_9p}: this kernel has no 9p, so that its guests get a copy of"
        f" {project.path}, and {outside} is not in it; give pytest a rootdir that has all tests"
        " (--rootdir, or a pytest.ini above them)" in result.stderr.str()
    )


def test_rootdir_that_the_path_of_a_kernel_leads_to(
    project: pytest.Pytester, without_9p: Path, tmp_path: Path
) -> None:
    """Without an ini-file pytest takes a directory above the kernel's and the project's."""
    (project.path / "tox.ini").unlink()
    outside = shutil.copy(project.path / "test_it.py", tmp_path)
    result = project.runpytest_subprocess("--kernel", without_9p, "test_it.py", outside)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"its guests get a copy of {project.path}, and {outside} is" in result.stderr.str()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--kernel-guest=plain",),
            r"it has no 9p, by which a plain guest has this host's root: take .* warm or cold\)",
        ),
        (
            ("--kernel-rw=data",),
            r"Linux 6\.1\.\S+ has no 9p: its guests can't write to \S+/data",
        ),
    ],
    ids=["plain", "rw"],
)
def test_what_packed_guests_can_not_do(
    project: pytest.Pytester, without_9p: Path, options: tuple[str, ...], sentence: str
) -> None:
    (project.path / "data").mkdir()
    result = project.runpytest_subprocess(f"--kernel={without_9p}", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if "9p" in line]
    assert re.search(f"{sentence}$", line), line
