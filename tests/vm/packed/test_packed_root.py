"""The root that is packed for guests of kernels without 9p: files, libraries, programs, modules."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.image import guest_image, inventory, packed_root
from pytest_bpflink.vm.image.cpio import Archive
from pytest_bpflink.vm.image.inventory import Inventory
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def taken(tmp_path: Path) -> Inventory:
    """Describe a Python whose packages are files of the test."""
    write(tmp_path / "lib/python3/os.py")
    write(tmp_path / "site-packages/package/module.py", "x = 1\n")
    write(tmp_path / "checkout/edited.py")
    return Inventory(
        python=sys.executable,
        startup={},
        path=tuple(
            str(tmp_path / entry) for entry in ("lib/python3", "site-packages", "checkout", "none")
        ),
        files=(),
        plugin=(),
        libraries=(),
        standard=str(tmp_path / "lib/python3"),
        tag="cpython-311",
        code=Path("/code.zip"),
        code_digest="",
        digest="packages",
    )


@contextlib.contextmanager
def archive_of(root: Path) -> Iterator[Archive]:
    """Yield an archive, and unpack it to ROOT at the end."""
    written = io.BytesIO()
    with Archive(written) as archive:
        yield archive
    root.mkdir()
    command = ["busybox", "cpio", "-idm", "--quiet"]
    subprocess.run(command, input=written.getvalue(), cwd=root, check=True)


def names(packed: packed_root.PackedRoot, root: Path) -> set[str]:
    return {str(Path(file).relative_to(root)) for file in packed.files}


def test_installed_packages_without_what_no_test_uses(
    taken: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_root, "_LARGEST", 100)
    for left_out in ("pip/__init__.py", "package/__pycache__/module.pyc"):
        write(tmp_path / "site-packages" / left_out)
    write(tmp_path / "site-packages/large.so", 101 * "x")
    write(tmp_path / "lib/python3/test/test_os.py")
    write(tmp_path / "lib/python3/config-3.11-x86_64-linux-gnu/Makefile")
    packed = packed_root.take(taken, cache=tmp_path / "cache")
    assert names(packed, tmp_path) == {"lib/python3/os.py", "site-packages/package/module.py"}
    assert packed.directories == taken.path[:2]


def test_digest_changes_with_files_and_not_with_compiled_code(
    taken: Inventory, tmp_path: Path
) -> None:
    def digest() -> str:
        return packed_root.take(taken, cache=tmp_path / "cache").digest

    first = digest()
    write(tmp_path / "site-packages/package/__pycache__/module.cpython-311.pyc")
    assert digest() == first
    write(tmp_path / "site-packages/package/module.py", "x = 2\n")
    second = digest()
    assert second != first
    write(tmp_path / "site-packages/package/new.py")
    assert digest() not in {first, second}


def test_libraries_are_looked_for_once(
    taken: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = packed_root.take(taken, cache=tmp_path / "cache")
    assert any("libbpf.so.1" in library for library in first.libraries)
    monkeypatch.setattr(programs, "run", lambda *_, **__: pytest.fail("looked again"))
    assert packed_root.take(taken, cache=tmp_path / "cache") == first


def test_modules_have_an_index_of_their_own(tmp_path: Path) -> None:
    modules = tmp_path / "lib/modules/6.1"
    write(modules / "kernel/net/dummy.ko", "dummy")
    (modules / "kernel/net/veth.ko.gz").write_bytes(gzip.compress(b"veth"))
    write(
        modules / "modules.dep",
        "kernel/net/other.ko:\nkernel/net/dummy.ko: kernel/net/veth.ko.gz\n"
        "kernel/net/veth.ko.gz:\n",
    )
    write(
        modules / "modules.alias",
        "# Aliases extracted from modules themselves.\nalias rtnl-link-dummy dummy\n"
        "alias rtnl-link-other other\n",
    )
    write(modules / "modules.builtin", "kernel/net/core.ko\n")
    with archive_of(tmp_path / "root") as archive:
        packed_root.add_modules(archive, modules, release="6.1.0")
    there = tmp_path / f"root{Path('/lib').resolve()}/modules/6.1.0"
    found = [path for path in there.rglob("*") if path.is_file()]
    assert {str(path.relative_to(there)): path.read_text() for path in found} == {
        "kernel/net/dummy.ko": "dummy",
        "kernel/net/veth.ko": "veth",
        "modules.dep": "kernel/net/dummy.ko: kernel/net/veth.ko\nkernel/net/veth.ko: \n",
        "modules.alias": "alias rtnl-link-dummy dummy\n",
        "modules.builtin": "kernel/net/core.ko\n",
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_packed_root_runs_python_with_its_packages_libbpf_and_a_shell(tmp_path: Path) -> None:
    """All that a guest has, run here: what is missing would be the host's otherwise."""
    needed = inventory.take(sys.executable, os.environ, cache=tmp_path)
    packed = packed_root.take(needed, cache=tmp_path)
    with archive_of(tmp_path / "root") as archive:
        for path in (*guest_image.surroundings(needed), *needed.libraries):
            archive.add_host_file(Path(path))
        packed.add_to(archive)
    program = (
        "import ctypes, json, sqlite3, ssl, pytest, xdist, subprocess\n"
        "ctypes.CDLL('libbpf.so.1')\n"
        "print(json.dumps([pytest.__file__, subprocess.getoutput('ls -d /etc/passwd')]))\n"
    )
    done = subprocess.run(
        ["chroot", tmp_path / "root", sys.executable, "-B", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [pytest.__file__, "/etc/passwd"]
    compiled = Path(importlib.util.cache_from_source(pytest.__file__))
    copy = tmp_path / f"root{compiled}"
    assert copy.read_bytes() == compiled.read_bytes()
    assert copy.stat().st_mtime == int(compiled.stat().st_mtime)
