"""The rooms of the house: each folder imports from the rooms below it, and never upwards.

`docs/architecture.md` says what each room is about.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: From the top. A file is in the room that names it, or else in the room of its folder.
ROOMS = (
    "selftests",
    "selftests/conformance",
    "selftests/support",
    "pytest_bpflink/plugin.py",
    "pytest_bpflink/fixtures.py",
    "pytest_bpflink/cli.py",
    "pytest_bpflink/__init__.py",
    "pytest_bpflink/matrix/setup.py",
    "pytest_bpflink/matrix/controller",
    "pytest_bpflink/matrix/worker",
    "pytest_bpflink/matrix/guests",
    "pytest_bpflink/matrix",
    "pytest_bpflink/commands",
    "pytest_bpflink/reports",
    "pytest_bpflink/session",
    "pytest_bpflink/ledger",
    "pytest_bpflink/features",
    "pytest_bpflink/features/probes",
    "pytest_bpflink/bpf",
    "pytest_bpflink/introspection",
    "pytest_bpflink/building",
    "pytest_bpflink/binding",
    "pytest_bpflink/system",
    "pytest_bpflink/errors.py",
    "vm/warm",
    "vm/machines",
    "vm/image",
    "vm/kernels",
    "vm/guest",
    "vm",
)

#: The rooms that may import pytest; a guest's worker, fixtures and reports are made for it.
KNOW_PYTEST = (
    "selftests",
    "selftests/conformance",
    "selftests/support",
    "pytest_bpflink/plugin.py",
    "pytest_bpflink/fixtures.py",
    "pytest_bpflink/matrix/setup.py",
    "pytest_bpflink/matrix/controller",
    "pytest_bpflink/matrix/worker",
    "pytest_bpflink/matrix/guests",
    "pytest_bpflink/matrix",
    "pytest_bpflink/reports",
    "pytest_bpflink/session",
)

#: The files that may name the insides of pytest, xdist and execnet: see test_insides.
INSIDES = (
    "pytest_bpflink/matrix/controller/xdist_loop.py",
    "pytest_bpflink/session/pytest_internals.py",
    "pytest_bpflink/session/xdist_worker.py",
)

LOOSE = {"__init__.py", "cli.py", "errors.py", "fixtures.py", "plugin.py"}

MOST_MODULES = 20


@dataclass(frozen=True)
class Import:
    """An import of one module by another file, in whatever place of it."""

    file: str
    module: str
    is_for_types: bool


def files(root: Path) -> dict[str, str]:
    """Return the files of the installed packages by the names of their modules."""
    found = {}
    for package in ("pytest_bpflink", "vm", "selftests"):
        # This follows no symbolic links, which are packages of their own.
        for file in (root / package).rglob("*.py"):
            path = str(file.relative_to(root))
            parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
            prefix = [] if package == "pytest_bpflink" else ["pytest_bpflink"]
            found[".".join([*prefix, *parts])] = path
    return found


def imports(root: Path, file: str, modules: Mapping[str, str]) -> Iterator[Import]:
    """Yield the imports of a file: at its top, late ones, and those for type checkers."""
    tree = ast.parse((root / file).read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: write the whole name of the module"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in below]
        else:
            continue
        for name in names:
            yield Import(file, name, id(node) in for_types)


def room(file: str) -> str:
    """Return the room of a file. Raises ValueError if it is in none."""
    if file in ROOMS:
        return file
    folder = file.rpartition("/")[0]
    if folder not in ROOMS:
        raise ValueError(f"{file} is in no room: move it, or give its folder a place in ROOMS")
    return folder


def upward_imports(root: Path) -> list[str]:
    """Return the imports that lead from a room to one above it."""
    modules = files(root)
    return [
        f"{file} imports {modules[each.module]}"
        for file in modules.values()
        for each in imports(root, file, modules)
        if each.module in modules
        if ROOMS.index(room(modules[each.module])) < ROOMS.index(room(file))
    ]


def circles(root: Path) -> list[str]:
    """Return the files that import themselves through others."""
    modules = files(root)
    graph = {
        file: {
            modules[each.module]
            for each in imports(root, file, modules)
            if each.module in modules and modules[each.module] != file
        }
        for file in modules.values()
    }
    # Files that import nothing, or only such files, are in no circle: take them away.
    while free := {file for file, imported in graph.items() if not imported & graph.keys()}:
        graph = {file: imported for file, imported in graph.items() if file not in free}
    return sorted(graph)


def test_every_file_is_in_a_room_and_every_room_has_files() -> None:
    assert {room(file) for file in files(ROOT).values()} == set(ROOMS)


def test_no_file_imports_from_a_room_above() -> None:
    assert upward_imports(ROOT) == []


def test_no_file_imports_itself_through_others() -> None:
    assert circles(ROOT) == []


def test_nothing_else_lies_loose() -> None:
    assert {file.name for file in (ROOT / "pytest_bpflink").glob("*.py")} == LOOSE


def test_no_folder_is_too_full_to_be_surveyed() -> None:
    folders = [file.rpartition("/")[0] for file in files(ROOT).values()]
    folders += [str(file.parent.relative_to(ROOT)) for file in (ROOT / "tests").rglob("*.py")]
    assert {folder for folder in folders if folders.count(folder) > MOST_MODULES} == set()


@pytest.mark.parametrize("name", ["pytest", "pluggy"])
def test_rooms_that_do_without_pytest(name: str) -> None:
    modules = files(ROOT)
    found = {
        room(file)
        for file in modules.values()
        for each in imports(ROOT, file, modules)
        if each.module.partition(".")[0] == name
    }
    assert found - {*KNOW_PYTEST} == set()


def test_vm_knows_nothing_of_the_project() -> None:
    """It boots kernels for anyone; `vm/guest/preload.py` names in strings what guests preload."""
    modules = files(ROOT)
    outside = [
        f"{file} imports {each.module}"
        for file in modules.values()
        if file.startswith("vm/")
        for each in imports(ROOT, file, modules)
        if each.module.partition(".")[0] == "pytest_bpflink"
        if not modules[each.module].startswith("vm/")
    ]
    assert outside == []


@pytest.mark.parametrize("name", ["_pytest", "xdist", "execnet"])
def test_insides_of_others_are_named_in_three_files(name: str) -> None:
    """Type checkers may see them elsewhere."""
    modules = files(ROOT)
    found = {
        file
        for file in modules.values()
        for each in imports(ROOT, file, modules)
        if each.module.partition(".")[0] == name and not each.is_for_types
    }
    assert found - {*INSIDES} == set()


# The walls hold: an import that is planted is seen.

UPWARDS = "from pytest_bpflink.ledger import ledger\n"
LATE = f"def late():\n    {UPWARDS}"
FOR_TYPES = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {UPWARDS}"


def plant(root: Path, **files: str) -> None:
    for name, text in {"bpf__link": "", "ledger__ledger": "", **files}.items():
        file = root / "pytest_bpflink" / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize("text", [UPWARDS, LATE, FOR_TYPES, "import pytest_bpflink.ledger.ledger"])
def test_an_import_upwards_is_seen(tmp_path: Path, text: str) -> None:
    plant(tmp_path, bpf__link=text)

    assert upward_imports(tmp_path) == [
        "pytest_bpflink/bpf/link.py imports pytest_bpflink/ledger/ledger.py"
    ]


def test_an_import_downwards_is_no_fault(tmp_path: Path) -> None:
    plant(tmp_path, ledger__ledger="from pytest_bpflink.bpf.link import Link\n")

    assert upward_imports(tmp_path) == []
    assert circles(tmp_path) == []


def test_a_circle_within_a_room_is_seen(tmp_path: Path) -> None:
    plant(
        tmp_path,
        bpf__link="from pytest_bpflink.bpf import map\n",
        bpf__map="def late():\n    from pytest_bpflink.bpf.program import Program\n",
        bpf__program=FOR_TYPES.replace("ledger import ledger", "bpf.link import Link"),
    )

    assert circles(tmp_path) == [
        "pytest_bpflink/bpf/link.py",
        "pytest_bpflink/bpf/map.py",
        "pytest_bpflink/bpf/program.py",
    ]


def test_a_file_without_a_room_is_seen(tmp_path: Path) -> None:
    plant(tmp_path, stray="")

    with pytest.raises(ValueError, match=r"pytest_bpflink/stray\.py is in no room: move it"):
        room(files(tmp_path)["pytest_bpflink.stray"])
