"""The README's tables, which are also the reference's, have every name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_bpflink.cli import COMMANDS
from tests.support import ROOT, pages

if TYPE_CHECKING:
    import pytest

README = pages.README.read_text()


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


def test_commands() -> None:
    section = README.partition("\n## The `bpflink` command\n")[2]
    assert re.findall(r"^\| `bpflink (\w+)", section, re.MULTILINE) == list(COMMANDS)


def test_packages() -> None:
    """The README names the Debian packages that the tutorial installs, of which one has libbpf1."""
    tutorial = [
        package
        for page in (ROOT / "docs/tutorial").glob("*.md")
        for command in pages.read(page).commands
        if command.startswith("sudo apt install ")
        for package in command.split()[3:]
    ]
    named = {
        package
        for command in re.findall(r"`apt\s+install\s+([^`]*)`", README)
        for package in command.split()
    }
    assert len(tutorial) > 5
    assert named == {*tutorial, "libbpf1"}


def names_in_table(title: str) -> list[str]:
    """Return the first words of a section's rows."""
    section = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(-*[\w-]+)", section, re.MULTILINE)
