"""The rooms of the house: each folder imports from the rooms below it, and never upwards.

`docs/architecture.md` says what each room is about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import ROOT, rooms
from tests.support.rooms import ROOMS, all_imports, circles, files, room, upward_imports

if TYPE_CHECKING:
    from pathlib import Path

#: The rooms that may import pytest.
KNOW_PYTEST = (
    "selftests",
    "selftests/conformance/info",
    "selftests/conformance/creating",
    "selftests/upstream",
    "selftests/bugs",
    "selftests/model",
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

#: The modules behind the public API that selftests may import; selftests/__init__.py says why.
BEHIND_THE_API = {
    "pytest_bpflink.binding.bpf_syscall",
    "pytest_bpflink.binding.btf",
    "pytest_bpflink.binding.kernel_btf",
    "pytest_bpflink.binding.libbpf",
    "pytest_bpflink.binding.opts",
    "pytest_bpflink.binding.uapi",
    "pytest_bpflink.errors",
    "pytest_bpflink.features.options",
    "pytest_bpflink.features.probing",
    "pytest_bpflink.session.requirements",
    "pytest_bpflink.system.perf_events",
}

LOOSE = {"__init__.py", "cli.py", "errors.py", "fixtures.py", "plugin.py"}

MOST_MODULES = 20


def test_every_file_is_in_a_room_and_every_room_has_files() -> None:
    assert {room(file) for file in files(ROOT).values()} == set(ROOMS)


def test_no_file_imports_from_a_room_above() -> None:
    assert upward_imports(ROOT) == []


def test_no_file_imports_itself_through_others() -> None:
    assert circles(ROOT) == []


def test_picture_shows_the_rooms_as_they_are() -> None:
    picture = (ROOT / "docs/pictures/rooms.svg").read_text()
    assert picture == rooms.picture(ROOT), "python -m tests.support.rooms draws it anew"


def test_nothing_else_lies_loose() -> None:
    assert {file.name for file in (ROOT / "pytest_bpflink").glob("*.py")} == LOOSE


def test_no_folder_is_too_full_to_be_surveyed() -> None:
    folders = [file.rpartition("/")[0] for file in files(ROOT).values()]
    folders += [str(file.parent.relative_to(ROOT)) for file in (ROOT / "tests").rglob("*.py")]
    assert {folder for folder in folders if folders.count(folder) > MOST_MODULES} == set()


@pytest.mark.parametrize("name", ["pytest", "pluggy"])
def test_rooms_that_do_without_pytest(name: str) -> None:
    found = {room(each.file) for each in all_imports(ROOT) if each.module.partition(".")[0] == name}
    assert found - {*KNOW_PYTEST} == set()


def test_vm_knows_nothing_of_the_project() -> None:
    """`vm` boots kernels for any project; `vm/guest/preload.py` names modules in strings only."""
    modules = files(ROOT)
    outside = [
        f"{each.file} imports {each.module}"
        for each in all_imports(ROOT)
        if each.file.startswith("vm/")
        if each.module.partition(".")[0] == "pytest_bpflink"
        if not modules[each.module].startswith("vm/")
    ]
    assert outside == []


def test_selftests_use_the_public_api_as_anyone_s_tests_do() -> None:
    behind = {
        each.module
        for each in all_imports(ROOT)
        if each.file.startswith("selftests/")
        if each.module.startswith("pytest_bpflink.")
        if not each.module.startswith("pytest_bpflink.selftests")
    }
    assert behind == BEHIND_THE_API


@pytest.mark.parametrize("name", ["_pytest", "xdist", "execnet"])
def test_insides_of_others_are_named_in_three_files(name: str) -> None:
    """Imports for type checkers alone may be elsewhere."""
    found = {
        each.file
        for each in all_imports(ROOT)
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
