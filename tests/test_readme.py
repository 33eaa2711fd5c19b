"""The README tells the truth: its code runs, and its tables have every name there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_bpflink.probe import missing_privileges

README = Path(__file__).parents[1].joinpath("README.md").read_text()

# Each block that is a file says its name in a comment on its first line.
FILES = {
    name: text
    for text, name in re.findall(
        r"^```(?:python|c)\n((?:# |/\* )(\S+).*?)^```$", README, re.MULTILINE | re.DOTALL
    )
}
TEST_FILES = [name for name in FILES if name.startswith("test_")]


def test_every_block_of_code_is_a_file() -> None:
    assert len(re.findall(r"^```(?:python|c)$", README, re.MULTILINE)) == len(FILES)
    assert TEST_FILES


@pytest.mark.parametrize("name", TEST_FILES)
def test_code_runs(name: str, pytester: pytest.Pytester) -> None:
    refusal = missing_privileges()
    if refusal:
        pytest.skip(refusal)
    for each, text in FILES.items():
        pytester.path.joinpath(each).write_text(text)

    result = pytester.runpytest_subprocess("-W", "error", name)

    result.assert_outcomes(passed=len(re.findall("^def test_", FILES[name], re.MULTILINE)))


def test_fixtures(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--fixtures", "-q").stdout.str()
    ours = re.findall(r"^(\w+)(?: \[\w+ scope\])? -- .*pytest_bpflink/", shown, re.MULTILINE)

    assert sorted(names_in_table("Fixtures")) == sorted(ours)


def test_options(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--help").stdout.str()
    ours = re.findall(r"^  (--(?:bpf|kernel)[\w-]*)", shown, re.MULTILINE)

    assert names_in_table("Options") == ours


def test_markers(pytester: pytest.Pytester) -> None:
    shown = pytester.runpytest_subprocess("--markers").stdout.str()
    others = pytester.runpytest_subprocess("--markers", "-p", "no:bpflink").stdout.str()
    marker = re.compile(r"^@pytest\.mark\.(\w+)", re.MULTILINE)

    ours = set(marker.findall(shown)) - set(marker.findall(others))

    assert set(names_in_table("Markers")) == ours


def names_in_table(title: str) -> list[str]:
    """Return the first words of a section's rows."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(-*[\w-]+)", section, re.MULTILINE)
