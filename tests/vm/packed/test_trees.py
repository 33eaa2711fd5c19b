"""Which files of a tree are copied for packed guests, with which compiled code."""

from __future__ import annotations

import os
import py_compile
from typing import TYPE_CHECKING

from pytest_bpflink.vm.image import trees
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from pathlib import Path


def names(root: Path) -> set[str]:
    return {str(file.relative_to(root)) for file in trees.files(root, builds=trees.BUILDS)}


def test_caches_and_environments_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "test_it.py")
    write(tmp_path / ".hidden")
    for left_out in (".git/config", "node_modules/a.js", "__pycache__/a.pyc", "env/pyvenv.cfg"):
        write(tmp_path / "deep" / left_out)
    write(tmp_path / "deep/env/lib/module.py")
    write(tmp_path / "deep/libbpf.a")
    assert names(tmp_path) == {"test_it.py", ".hidden"}


def test_objects_of_builds_are_taken(tmp_path: Path) -> None:
    for name in ("build/it.bpf.o", "build/deep/it.so", "build/it.whl", "build/it.log"):
        write(tmp_path / name)
    write(tmp_path / "package/build/__init__.py")
    write(tmp_path / "package/build/module.py")
    assert names(tmp_path) == {
        "build/it.bpf.o",
        "build/deep/it.so",
        "package/build/__init__.py",
        "package/build/module.py",
    }


def test_links_are_taken_and_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "tree/file")
    write(tmp_path / "elsewhere/deep")
    (tmp_path / "tree/directory").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tree/nowhere").symlink_to("missing")
    assert names(tmp_path / "tree") == {"file", "directory", "nowhere"}


def test_names_are_skipped_in_the_tree_itself_only(tmp_path: Path) -> None:
    write(tmp_path / "test/module.py")
    write(tmp_path / "package/test/module.py")
    found = [str(file.relative_to(tmp_path)) for file in trees.files(tmp_path, skipped=["test"])]
    assert found == ["package/test/module.py"]


def test_compiled_code_of_the_present_source_only(tmp_path: Path) -> None:
    sources = [write(tmp_path / f"{name}.py", "x = 1\n") for name in ("fresh", "stale", "gone")]
    for source in sources:
        py_compile.compile(str(source))
    sources[1].write_text("x = 12\n")
    os.utime(sources[1], (1, 1))
    # pytest's rewritten module begins as Python's does.
    (compiled,) = (tmp_path / "__pycache__").glob("fresh.*.pyc")
    rewritten = compiled.with_name(compiled.name.replace(".pyc", "-pytest-9.2.0.pyc"))
    rewritten.write_bytes(compiled.read_bytes())
    (tmp_path / "__pycache__/fresh.cpython-30.pyc").write_bytes(compiled.read_bytes())

    found = trees.compiled(sources[:2], lambda place: [place / "__pycache__", place / "none"])

    assert {*found} == {compiled, rewritten}
