"""The wheel has every source and works when installed, and importing it is cheap."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pytest_bpflink
from pytest_bpflink.features.privileges import missing_privileges
from pytest_bpflink.vm import kernels
from tests.support import ROOT
from tests.support.installed import build, run_build, run_pytest

if TYPE_CHECKING:
    from types import ModuleType

PACKAGES = {"pytest_bpflink": "pytest_bpflink", "vm": "pytest_bpflink/vm"}
PACKAGES["selftests"] = "pytest_bpflink/selftests"


def names_in(wheel: Path) -> set[str]:
    """Return the files in a wheel, without its metadata."""
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def sources() -> set[str]:
    """Return the files that must be installed."""
    return {
        str(Path(installed, file.relative_to(ROOT / directory)))
        for directory, installed in PACKAGES.items()
        # rglob follows no symbolic links: pytest_bpflink/vm and pytest_bpflink/selftests are links.
        for file in (ROOT / directory).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def objects() -> set[str]:
    """Return the files that are compiled from the selftests' programs."""
    programs = {name for name in sources() if name.endswith(".bpf.c")}
    made = {name.removesuffix("c") + "o" for name in programs}
    return made | {str(Path(name).parent / "prebuilt.json") for name in programs}


def test_wheel_holds_every_source(wheel: Path) -> None:
    assert names_in(wheel) == sources() | objects()


def test_wheel_without_clang_lacks_the_objects_and_says_so(tmp_path: Path) -> None:
    done = run_build("--wheel", ROOT, tmp_path, environment={"CLANG": "/nowhere/clang"})

    assert "BPF objects are left out, so running them needs clang" in done.stdout
    (built,) = tmp_path.iterdir()
    assert names_in(built) == sources()


@pytest.mark.parametrize(
    "name",
    [
        "pytest_bpflink/py.typed",
        "pytest_bpflink/selftests/progs/cgroup_egress.bpf.c",
        "pytest_bpflink/selftests/test_link_pinning.py",
        "pytest_bpflink/vm/guest/plain.sh",
        "pytest_bpflink/vm/machines/machine.py",
    ],
)
def test_wheel_holds_other_files_than_the_plugin_s_modules(wheel: Path, name: str) -> None:
    assert name in names_in(wheel)


def test_wheel_of_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    subprocess.run(["tar", "-xf", sdist, "-C", tmp_path / "source"], check=True)
    (source,) = (tmp_path / "source").iterdir()

    assert names_in(build("--wheel", source, tmp_path / "wheel")) == names_in(wheel)


def test_installed_wheel_is_a_plugin(fresh_python: Path, tmp_path: Path) -> None:
    """In a directory outside the checkout, with nothing of it on the path."""
    (tmp_path / "test_it.py").write_text(
        "from pytest_bpflink import selftests, vm\n\n"
        "def test_it(pytestconfig):\n"
        "    plugin = pytestconfig.pluginmanager.get_plugin('bpflink')\n"
        "    for each in (plugin, vm, selftests):\n"
        f"        assert each.__file__.startswith({str(fresh_python.parents[1])!r})\n"
    )

    done = run_pytest(fresh_python, tmp_path)

    assert done.returncode == 0, done.stdout


def test_installed_selftests_need_no_clang(fresh_python: Path, tmp_path: Path) -> None:
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)

    done = run_pytest(
        fresh_python,
        tmp_path,
        "--pyargs",
        "pytest_bpflink.selftests.test_link_pinning",
        "pytest_bpflink.selftests.test_cgroup_link",
        environment={"CLANG": "/nowhere/clang", "BPFLINK_CACHE": str(tmp_path / "cache")},
    )

    assert done.returncode == 0, done.stdout
    assert "clang none" in done.stdout
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", pytest_bpflink.__all__)
def test_public_name(name: str) -> None:
    value = getattr(pytest_bpflink, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__.startswith("pytest_bpflink.")
        assert inspect.getdoc(value)


@pytest.mark.parametrize("package", [pytest_bpflink, kernels], ids=lambda each: each.__name__)
def test_type_checkers_see_the_same_names(package: ModuleType) -> None:
    """Names are imported when asked for; mypy reads import statements with the same names."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: str(node.module).removeprefix(f"{package.__name__}.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert seen == package._HOME


def test_importing_the_plugin_is_cheap() -> None:
    """A session that does not use the plugin imports no ctypes, libbpf or xdist."""
    show = "import sys; before = set(sys.modules); import pytest_bpflink.plugin;"
    show += "print(*(set(sys.modules) - before))"
    loaded = subprocess.check_output([sys.executable, "-c", f"import pytest; {show}"], text=True)

    ours = {name for name in loaded.split() if name.startswith(("pytest_bpflink", "ctypes"))}
    assert not ours & {
        "ctypes",
        "pytest_bpflink.binding.libbpf",
        "pytest_bpflink.matrix.controller.controller",
    }
    assert not {name for name in loaded.split() if name.startswith(("xdist", "pyroute2"))}


def test_finding_a_saved_guest_is_cheap() -> None:
    """Importing the modules that fetch and lock took a tenth of `bpflink vm`'s half second."""
    used = "from pytest_bpflink.vm.warm import warm; from pytest_bpflink.vm.kernels import find;"
    used += "from pytest_bpflink.vm.machines import kvm"
    show = f"import sys; {used}; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", show], text=True).split()

    assert "pytest_bpflink.vm.kernels.store" in loaded
    assert not {"filelock", "logging", "pytest_bpflink.vm.kernels.debian"} & {*loaded}
