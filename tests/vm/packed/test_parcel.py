"""The parcel that packed guests are sent: what is in it, and what is too much."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import subprocess
import zlib
from pathlib import Path

import pytest

from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.warm import parcel
from pytest_bpflink.vm.warm.parcel import Contents
from tests.support.kernel_trees import write


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project with a module, its compiled code, and an object."""
    root = tmp_path / "a project, with a comma"
    module = write(root / "src/module.py", "x = 1\n")
    os.utime(module, (1_700_000_000, 1_700_000_000))
    py_compile.compile(str(module))
    write(root / "test_it.py")
    write(root / "build/it.bpf.o", "an object")
    write(root / ".git/config")
    return root


def opened(contents: Contents, into: Path) -> Path:
    """Unpack a parcel as the agent does, but below INTO."""
    into.mkdir()
    archive = zlib.decompress(parcel.compose(contents, say=print))
    command = ["busybox", "cpio", "-idmu", "--quiet"]
    subprocess.run(command, input=archive, cwd=into, check=True)
    return into


def below(root: Path, path: Path) -> Path:
    return root / str(path).lstrip("/")


def test_files_keep_path_time_mode_and_owner(project: Path, tmp_path: Path) -> None:
    script = write(project / "run.sh")
    script.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(script, 1234, 1234)
    there = opened(Contents(trees=(project,)), tmp_path / "guest")
    sent = {path for path in below(there, project).rglob("*") if path.is_file()}
    assert {str(path.relative_to(below(there, project))) for path in sent} == {
        "build/it.bpf.o",
        "run.sh",
        f"src/__pycache__/{Path(importlib.util.cache_from_source('module.py')).name}",
        "src/module.py",
        "test_it.py",
    }
    assert below(there, project / "src/module.py").stat().st_mtime == 1_700_000_000
    status = below(there, script).stat()
    assert (status.st_mode & 0o777, status.st_uid) == (0o755, script.stat().st_uid)


def test_directory_that_a_link_leads_to(project: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(project)
    there = opened(Contents(trees=(link,)), tmp_path / "guest")
    assert os.readlink(below(there, link)) == str(project)
    assert below(there, project / "test_it.py").is_file()


def test_other_files_and_empty_directories(project: Path, tmp_path: Path) -> None:
    library = write(tmp_path / "lib/libbpf.so.1.8", "a library")
    (tmp_path / "lib/libbpf.so").symlink_to("libbpf.so.1.8")
    (tmp_path / "cwd").mkdir()
    contents = Contents(
        trees=(project, project / "src"),
        files=(tmp_path / "lib/libbpf.so",),
        empty=(tmp_path / "cwd",),
        made={Path("/run/index"): b"made"},
    )
    there = opened(contents, tmp_path / "guest")
    assert below(there, library).read_text() == "a library"
    assert os.readlink(below(there, tmp_path / "lib/libbpf.so")) == "libbpf.so.1.8"
    assert list(below(there, tmp_path / "cwd").iterdir()) == []
    assert (there / "run/index").read_text() == "made"


def test_compiled_code_in_a_cache_by_path(project: Path, tmp_path: Path) -> None:
    cache = tmp_path / "pycache"
    (compiled,) = (project / "src/__pycache__").iterdir()
    kept = Path(f"{cache}{project}/src") / compiled.name
    kept.parent.mkdir(parents=True)
    compiled.rename(kept)
    there = opened(Contents(trees=(project,), caches=(str(cache),)), tmp_path / "guest")
    assert below(there, kept).is_file()


def test_large_files_are_left_out_and_named(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(parcel, "_LARGEST_FILE", 1 << 20)
    large = [write(project / f"data{number}", ((1 << 20) + 1) * "x") for number in range(6)]
    there = opened(Contents(trees=(project,)), tmp_path / "guest")
    assert not any(below(there, file).exists() for file in large)
    assert capsys.readouterr().out == (
        "guests without 9p, which get copies of files, lack what is larger than 1 MiB:"
        f" {', '.join(map(str, large[:5]))} and 1 more\n"
    )


@pytest.mark.parametrize(
    ("limit", "most", "phrase"),
    [("_MOST_BYTES", 1 << 20, "1 MiB"), ("_MOST_FILES", 4, "4 files")],
)
def test_too_much_names_the_largest_directory(
    project: Path, monkeypatch: pytest.MonkeyPatch, limit: str, most: int, phrase: str
) -> None:
    monkeypatch.setattr(parcel, limit, most)
    for number in range(3):
        write(project / f"data/{number}", 400_000 * "x")
    with pytest.raises(MachineError) as raised:
        parcel.compose(Contents(trees=(project,)), say=print)
    assert str(raised.value) == (
        f"{project} has more than {phrase}, most of them in {project}/data, and guests of kernels"
        " without 9p get a copy of it: take a smaller rootdir (--rootdir, or a pytest.ini beside"
        " the tests; for bpflink vm, the working directory), or install what is only imported from"
        " there"
    )


def test_what_is_no_file_is_left_out(project: Path, tmp_path: Path) -> None:
    os.mkfifo(project / "pipe")
    (project / "nowhere").symlink_to("missing")
    there = opened(Contents(trees=(project,)), tmp_path / "guest")
    assert not below(there, project / "pipe").exists()
    assert os.readlink(below(there, project / "nowhere")) == "missing"


def test_edited_projects_and_further_entries_of_the_path(tmp_path: Path) -> None:
    packages = tmp_path / "site-packages"
    edited, further = tmp_path / "an edited one", tmp_path / "further"
    for directory in (packages, edited, further):
        directory.mkdir()
    for name, facts in {
        "edited": {
            "url": f"file://{str(edited).replace(' ', '%20')}",
            "dir_info": {"editable": True},
        },
        "copied": {"url": f"file://{tmp_path}", "dir_info": {}},
        "damaged": "no facts",
    }.items():
        write(packages / f"{name}-1.dist-info/direct_url.json", json.dumps(facts))
    path = [str(packages), str(further), str(tmp_path / "missing"), str(tmp_path / "a.zip")]
    assert parcel.outside(path, [str(packages)]) == [further, edited]
