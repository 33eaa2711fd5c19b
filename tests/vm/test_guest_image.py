"""A guest's image: files with their links, modules, and an unpacked kernel. No guest runs."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import lzma
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import machinery
from pathlib import Path
from typing import Any

import execnet
import pytest

from pytest_bpflink.session import pytest_internals, xdist_worker
from pytest_bpflink.vm.guest import preload
from pytest_bpflink.vm.image import guest_image, inventory
from pytest_bpflink.vm.image.cpio import Archive
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.machines import console


def unpack(archive: Path, into: Path) -> Path:
    into.mkdir()
    with archive.open("rb") as file:
        command = ["busybox", "cpio", "-i", "-d", "--quiet"]
        subprocess.run(command, stdin=file, cwd=into, check=True, stderr=subprocess.DEVNULL)
    return into


def test_files_are_at_their_own_paths_with_the_links_on_the_way(tmp_path: Path) -> None:
    real = tmp_path / "real" / "deep"
    real.mkdir(parents=True)
    (real / "file").write_text("content")
    (real / "file").chmod(0o755)
    (tmp_path / "directory").symlink_to("real/deep")
    (tmp_path / "link").symlink_to(tmp_path / "directory" / ".." / "deep" / "file")
    with (tmp_path / "archive").open("wb") as file, Archive(file) as archive:
        archive.add_host_file(tmp_path / "link")
        archive.add_host_file(tmp_path / "directory" / "file")
        archive.add(Path("/added"), b"not of the host")

    root = unpack(tmp_path / "archive", tmp_path / "root")

    there = root / str(tmp_path).lstrip("/")
    assert (there / "real/deep/file").read_text() == "content"
    assert (there / "real/deep/file").stat().st_mode & 0o777 == 0o755
    assert os.readlink(there / "directory") == "real/deep"
    assert os.readlink(there / "link") == str(tmp_path / "directory/../deep/file")
    assert (root / "added").read_bytes() == b"not of the host"


def test_links_that_go_in_circles(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with (
        (tmp_path / "archive").open("wb") as file,
        Archive(file) as archive,
        pytest.raises(OSError, match="too many symbolic links"),
    ):
        archive.add_host_file(tmp_path / "a")


def test_image_has_python_pytest_and_the_agent(tmp_path: Path) -> None:
    needed = inventory.take(sys.executable, os.environ, cache=tmp_path)
    guest_image.build(tmp_path / "archive", needed, modules=None)
    root = unpack(tmp_path / "archive", tmp_path / "root")

    def in_image(path: str) -> Path:
        return root / path.lstrip("/")

    assert in_image(sys.executable).is_symlink() == Path(sys.executable).is_symlink()
    assert in_image(os.path.realpath(sys.executable)).is_file()
    assert in_image(os.__file__).is_file()
    assert in_image(pytest.__file__).is_file()
    assert (root / "bpflink/agent.py").is_file()
    assert json.loads((root / "bpflink/settings.json").read_text())["modules"] == []
    assert not in_image(__file__).exists()
    assert not [path for path in needed.files if "/pytest_bpflink/" in path]
    assert in_image(console.__file__).is_file()
    assert not in_image(inventory.__file__).exists()


def test_image_has_compiled_code_that_its_python_accepts(tmp_path: Path) -> None:
    """Compiling takes most of the time of an import, above all in a guest."""
    needed = inventory.take(sys.executable, os.environ, cache=tmp_path)
    guest_image.build(tmp_path / "archive", needed, modules=None)
    root = unpack(tmp_path / "archive", tmp_path / "root")

    for module in (contextlib, execnet):
        source = Path(str(module.__file__))
        copy = root / str(source).lstrip("/")
        # The copy has another time than the source, and can't be compiled.
        copy.write_text("not Python")
        assert machinery.SourceFileLoader(module.__name__, str(copy)).get_code(module.__name__)


def test_plugin_that_this_python_finds_is_the_one_that_runs_here(tmp_path: Path) -> None:
    """Guests with another plugin import it anew, and are slower."""
    assert inventory.take(sys.executable, os.environ, cache=tmp_path).has_this_plugin


@pytest.mark.parametrize(
    "name",
    [
        *preload._MODULES,
        *pytest_internals.MODULES,
        *xdist_worker.MODULES,
        *(f"pytest_bpflink.{name}" for name in preload._PLUGIN),
    ],
)
def test_name_that_is_preloaded_is_a_module(name: str) -> None:
    """A guest that could not preload a module imports it when needed, which takes longer."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip("not installed")

    assert importlib.util.find_spec(name)


def test_search_of_each_plugin_that_is_preloaded_is_shortened() -> None:
    """The name of a module that is not preloaded has no effect."""
    imported = {f"pytest_bpflink.{name}" for name in preload._PLUGIN} | {*preload._MODULES}

    assert {*preload._PLUGINS, *preload._OWN_PLUGINS} <= imported
    assert {*pytest_internals.PLUGINS} <= {*pytest_internals.MODULES}
    assert {*xdist_worker.PLUGINS} <= {*xdist_worker.MODULES}


def test_inventory_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "pytest" / "__init__.py"
    package.parent.mkdir()
    package.write_text("one = 1")
    asked = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[0])
        Path(command[-1]).touch()
        described: dict[str, Any] = {
            "path": [],
            "files": [str(package)],
            "plugin": [],
            "libraries": [],
        }
        described |= {"standard": "/usr/lib/python3.11", "tag": "cpython-311"}
        return subprocess.CompletedProcess(command, 0, json.dumps(described))

    monkeypatch.setattr(subprocess, "run", run)

    def digest() -> str:
        return inventory.take("python", {}, cache=tmp_path / "cache").digest

    first = digest()
    assert digest() == first
    assert asked == ["python"]
    # As on CI, where each run installs the package anew.
    package.unlink()
    package.write_text("one = 1")
    assert digest() == first
    assert asked == ["python"]
    before = package.stat()
    package.write_text("one = 2")
    os.utime(package, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digest() != first
    assert asked == ["python", "python"]
    next((tmp_path / "cache").glob("*.zip")).unlink()
    digest()
    assert asked == ["python", "python", "python"]


def test_inventory_that_nobody_uses_is_forgotten(tmp_path: Path) -> None:
    for name, days in (("python-old.json", 31), ("python-old.zip", 31), ("python-new.json", 29)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - days * 86400,) * 2)
    needed = inventory.take(sys.executable, os.environ, cache=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [needed.code.name, needed.code.with_suffix(".json").name, "python-new.json"]
    )


def test_python_without_pytest(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": "", "PATH": os.defpath}
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    with pytest.raises(ImageError, match="has no pytest of its own"):
        inventory.take(str(bare / "bin/python"), environment, cache=tmp_path)


@pytest.mark.parametrize("directory", ["with space", "d" * 250])
def test_python_that_no_script_can_name_has_a_link(directory: str, tmp_path: Path) -> None:
    python = tmp_path / directory / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    needed = replace(inventory.take(sys.executable, os.environ, cache=tmp_path), python=str(python))
    guest_image.build(tmp_path / "archive", needed, modules=None)

    image = unpack(tmp_path / "archive", tmp_path / "root") / "bpflink"
    first_line = (image / "agent.py").read_text().partition("\n")[0]
    assert first_line == "#!/bpflink/python -u"
    assert os.readlink(image / "python") == str(python)
    assert json.loads((image / "settings.json").read_text())["executable"] == str(python)


@pytest.mark.parametrize("name", ["PYTHONSAFEPATH", "PYTHONHOME"])
def test_python_that_starts_otherwise_finds_the_same(name: str, tmp_path: Path) -> None:
    value = {"PYTHONSAFEPATH": "1", "PYTHONHOME": sys.base_prefix}[name]
    plain = {variable: value for variable, value in os.environ.items() if variable != name}
    usual = inventory.take(sys.executable, plain, cache=tmp_path)

    found = inventory.take(sys.executable, {**plain, name: value}, cache=tmp_path)

    assert found.startup == {**usual.startup, name: value}
    assert (found.path, found.files, found.digest) == (usual.path, usual.files, usual.digest)


def test_each_hash_seed_has_the_same_inventory(tmp_path: Path) -> None:
    """As tox chooses one for each run."""
    first, second = (
        inventory.take(sys.executable, {**os.environ, "PYTHONHASHSEED": seed}, cache=tmp_path)
        for seed in "12"
    )

    assert first == second
    assert "PYTHONHASHSEED" not in first.startup


def test_paths_of_python_path_are_relative_to_the_working_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    odd = os.pathsep.join(["relative", "", "with space", str(file), "/nowhere"])
    environment = {**os.environ, "PYTHONPATH": odd}

    found = inventory.take(sys.executable, environment, cache=tmp_path / "cache", cwd=tmp_path)

    expected = ("relative", "", "with space", "file", "/nowhere")
    assert found.path[:5] == tuple(str(tmp_path / entry) for entry in expected)


def test_modules_are_loaded_after_the_modules_that_they_need(tmp_path: Path) -> None:
    for name in ("9p", "9pnet", "netfs"):
        (tmp_path / f"{name}.ko").write_bytes(name.encode())
    (tmp_path / "overlay.ko.xz").write_bytes(lzma.compress(b"overlay"))
    (tmp_path / "modules.dep").write_text(
        "overlay.ko.xz:\n9p.ko: 9pnet.ko netfs.ko\n9pnet.ko:\nnetfs.ko: 9pnet.ko\nother.ko:\n"
    )
    needed = inventory.take(sys.executable, os.environ, cache=tmp_path)
    guest_image.build(tmp_path / "archive", needed, modules=tmp_path)
    root = unpack(tmp_path / "archive", tmp_path / "root")
    settings = json.loads((root / "bpflink/settings.json").read_text())
    assert settings["modules"] == ["9pnet", "netfs", "9p", "overlay"]
    assert (root / "bpflink/modules/overlay").read_bytes() == b"overlay"


def test_file_of_a_module_that_replaces_itself_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As collections.abc of Python 3.13.0; without its file guests' Python did not start."""
    (tmp_path / "replacing").mkdir()
    (tmp_path / "replacing/__init__.py").touch()
    (tmp_path / "replacing/abc.py").write_text(
        "import sys, _collections_abc\nsys.modules[__name__] = _collections_abc\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("replacing", "replacing.abc"):
        # monkeypatch forgets them at the end of the test.
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]
    importlib.import_module("replacing.abc")

    files = preload._files({"replacing"})

    found = {file for file in files if file.startswith(str(tmp_path))}
    assert found == {str(tmp_path / f"replacing/{name}.py") for name in ("__init__", "abc")}
