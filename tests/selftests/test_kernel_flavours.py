"""What builds kernels with faults, and what judges runs on them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from machines import kernel_build
from machines.flavours import mutants
from machines.flavours.edits import Edit, EditError, Top, edit_tree
from machines.flavours.mutants import MUTANTS, PARAMETER, Mutant
from machines.kernel_build import BuildError, Recipe
from machines.kernel_mutants import found_by, has_faults, main

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """\
static int release(int a);

#ifdef CONFIG_A
static int
release(int a)
{
	if (a)
		return 1;
	return 0;
}
#else
static int release(int a)
{
	return -95;
}
#endif

int other(void)
{
	return 0;
}
"""


def edit(before: str, after: str, function: str = "release") -> Edit:
    return Edit("bpf/link.c", function, before, after)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The sources of a kernel: one file."""
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf/link.c").write_text(SOURCE)
    return tmp_path


def test_edit_of_a_line() -> None:
    """The line is that of the function, though another has it too, and keeps its indentation."""
    edited = edit("return 0;", "if (x) return 2;\nreturn 0;").edited(SOURCE)
    assert edited == SOURCE.replace(
        "\treturn 0;\n}\n#else", "\tif (x) return 2;\n\treturn 0;\n}\n#else"
    )


def test_edit_of_lines_without_their_indentation() -> None:
    edited = edit("if (a)\nreturn 1;", "if (!a)\nreturn 1;").edited(SOURCE)
    assert "\tif (!a)\n\treturn 1;\n\treturn 0;\n" in edited


@pytest.mark.parametrize(
    ("function", "before", "said"),
    [
        ("release", "return 7;", "bpf/link.c: release has not: return 7;"),
        ("attach", "return 0;", "bpf/link.c defines no function attach"),
        ("release", "return 1", "bpf/link.c: release has not: return 1"),
    ],
)
def test_edit_of_sources_that_are_others(function: str, before: str, said: str) -> None:
    with pytest.raises(EditError) as refused:
        edit(before, "", function).edited(SOURCE)
    assert str(refused.value) == said


def test_edit_of_a_line_that_is_there_twice() -> None:
    twice = SOURCE.replace("return 1;", "return 0;")
    with pytest.raises(EditError, match="release has 2 times: return 0;"):
        edit("return 0;", "").edited(twice)


def test_edits_of_a_tree_come_and_go(tree: Path) -> None:
    file = tree / "bpf/link.c"
    edit_tree(tree, [Top("bpf/link.c", "extern int x;"), edit("return 0;", "return x;")])
    assert file.read_text().startswith("extern int x;\nstatic int release")
    assert "\treturn x;\n}\n#else" in file.read_text()

    edit_tree(tree, [edit("return 1;", "return x;")])
    assert file.read_text() == SOURCE.replace("return 1;", "return x;")

    edit_tree(tree, [])
    assert file.read_text() == SOURCE


def test_file_that_is_edited_already_is_not_written(tree: Path) -> None:
    """So make does not compile it again."""
    file = tree / "bpf/link.c"
    edit_tree(tree, [edit("return 0;", "return x;")])
    os.utime(file, (1, 1))
    edit_tree(tree, [edit("return 0;", "return x;")])
    assert file.stat().st_mtime == 1


def test_edit_that_fails_leaves_the_tree(tree: Path) -> None:
    with pytest.raises(EditError):
        edit_tree(tree, [edit("return 0;", "return x;"), edit("return 7;", "")])
    assert (tree / "bpf/link.c").read_text() == SOURCE

    with pytest.raises(EditError, match=r"the sources have no bpf/gone\.c"):
        edit_tree(tree, [Top("bpf/gone.c", "")])


def test_build_tells_of_sources_that_are_others(tree: Path) -> None:
    with pytest.raises(BuildError, match="machines/flavours knows them: the sources have no "):
        kernel_build._edit(Recipe(flavour="mutants"), tree)


def test_mutants_are_chosen_by_number() -> None:
    """Only the file that is always built defines the parameter, and the others declare it."""
    two = tuple(
        Mutant("", file, "release", "return 0;", "return MUTANT ? 1 : 0;")
        for file in ("kernel/bpf/syscall.c", "b.c")
    )
    assert mutants.edits(two) == (
        Top("b.c", f"extern int {PARAMETER};"),
        Top("kernel/bpf/syscall.c", f"extern int {PARAMETER};"),
        Top("kernel/bpf/syscall.c", "#include <linux/moduleparam.h>"),
        Top(
            "kernel/bpf/syscall.c",
            f"int {PARAMETER}; core_param({PARAMETER}, {PARAMETER}, int, 0444);",
        ),
        Edit("kernel/bpf/syscall.c", "release", "return 0;", f"return ({PARAMETER} == 1) ? 1 : 0;"),
        Edit("b.c", "release", "return 0;", f"return ({PARAMETER} == 2) ? 1 : 0;"),
    )


def test_mutants_differ() -> None:
    """No two have the same words, or edit the same line, and each can be switched off."""
    assert len({mutant.breaks for mutant in MUTANTS}) == len(MUTANTS)
    places = {(mutant.file, mutant.function, mutant.before) for mutant in MUTANTS}
    assert len(places) == len(MUTANTS)
    assert [mutant for mutant in MUTANTS if "MUTANT" not in mutant.after] == []


def test_flavours_are_kernels_of_their_own() -> None:
    plain, faulty = Recipe(), Recipe(flavour="mutants")
    assert (plain.name, faulty.name) == ("6.12", "6.12-mutants")
    assert Recipe(("BPF_JIT",), "debug").name == "6.12-debug-without-BPF_JIT"
    assert Recipe(flavour="debug").wanted()["CONFIG_KASAN"] == "y"
    assert "CONFIG_KASAN" not in plain.wanted()


@pytest.mark.parametrize("number", ["0", str(len(MUTANTS) + 1), "x"])
def test_mutant_that_there_is_not(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", number])
    assert "argument --only: invalid" in capsys.readouterr().err


def test_kernel_without_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "boot").mkdir()
    symbols = tmp_path / "boot/System.map-6.12.1"
    symbols.write_text("ffffffff81000000 T bpflink_mutant_of_another\n")
    assert main(["--kernel", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} is no kernel of the flavour mutants\n"

    symbols.write_text("ffffffff81000000 D bpflink_mutant\n")
    assert has_faults(tmp_path)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("=== 9 passed, 2 skipped in 3.21s ===", None),
        ("usage:\nERROR: no such option", None),
        (
            "FAILED test_x.py::test_y[tcx-6.12-a] - assert 1 | 2 == 2\nERROR test_x.py::test_z - x",
            "`test_x.py::test_y[tcx]`: assert 1 / 2 == 2",
        ),
        ("ERROR selftests/test_x.py::test_z[6.12-a]", "`selftests/test_x.py::test_z`: "),
    ],
)
def test_which_test_found_a_mutant(output: str, expected: str | None) -> None:
    assert found_by(output, "6.12-a") == expected
