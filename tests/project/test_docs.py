"""The pages are right: their code runs, and the options of their commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.features.privileges import missing_privileges
from tests.support import ROOT
from tests.support.pages import PAGES, README, Page, read

if TYPE_CHECKING:
    from pathlib import Path

# Pages with blocks that are no files: a bad example, and half a test.
FRAGMENTS = {"CONTRIBUTING.md"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if read(page).tests], ids=name)
def test_code_runs(page: Path, pytester: pytest.Pytester) -> None:
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)
    shown = read(page)
    for each, text in (read(README).files | shown.files).items():
        pytester.path.joinpath(each).write_text(text)

    result = pytester.runpytest_subprocess("-W", "error", *shown.tests)

    skipped = result.parseoutcomes().get("skipped", 0)
    assert skipped <= shown.depending
    result.assert_outcomes(passed=shown.passing - skipped, skipped=skipped, failed=shown.failing)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_of_code_is_a_file(page: Path) -> None:
    assert not read(page).nameless or name(page) in FRAGMENTS


def test_pages_have_code() -> None:
    """Otherwise a change of the pages' style could leave nothing to run."""
    assert sum(len(read(page).tests) for page in PAGES) > 10


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option that pytest has with the plugin."""
    shown = subprocess.check_output([sys.executable, "-m", "pytest", "--help"], text=True, cwd=ROOT)
    return options_in(shown)


def options_in(shown: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown))


@pytest.mark.parametrize("page", [page for page in PAGES if read(page).commands], ids=name)
def test_commands_exist(page: Path, options: set[str]) -> None:
    for command in read(page).commands:
        words = [word for word in shlex.split(command, comments=True) if "=" not in word[:1]]
        while words[0] == "sudo" or re.match(r"[A-Z_]+=", words[0]):
            del words[0]
        program, *arguments = words
        if program.endswith("pytest"):
            ours = {word.partition("=")[0] for word in arguments if word.startswith("-")}
            assert ours <= options, command
        elif program == "make" and "-C" not in arguments:
            targets = re.findall(r"^([\w-]+):", ROOT.joinpath("Makefile").read_text(), re.MULTILINE)
            assert {word for word in arguments if "=" not in word} <= set(targets), command
        elif program == "bpflink":
            own = arguments[: arguments.index("--")] if "--" in arguments else arguments
            shown = subprocess.check_output(
                [sys.executable, "-m", "pytest_bpflink.cli", *own, "--help"], text=True
            )
            assert {word for word in own if word.startswith("-")} <= options_in(shown), command


def test_options_in_sentences_exist(options: set[str]) -> None:
    for page in PAGES:
        named = set(re.findall(r"`(--(?:bpf|kernel)[\w-]*)", page.read_text()))
        assert named <= options, name(page)


def test_expected_counts_of_a_page() -> None:
    page = Page({"test_a.py": "def test_x():\n", "test_b.py": "def test_y():\n"}, ["test_b.py"])
    assert (page.passing, page.failing, page.depending) == (1, 1, 0)
