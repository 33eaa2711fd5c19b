"""The `bpflink` command itself: help, exit statuses, and its errors without rich."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.cli import COMMANDS
from tests.support.command import BPFLINK, bpflink

if TYPE_CHECKING:
    from pathlib import Path


def test_help_names_each_command_and_the_exit_statuses() -> None:
    done = bpflink("--help")
    assert done.returncode == 0
    assert re.findall(r"^    ([a-z]+)(?: |$)", done.stdout, re.MULTILINE) == list(COMMANDS)
    assert "exit status:\n  0    success" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_fits_a_terminal(name: str) -> None:
    done = bpflink(name, "--help", COLUMNS="100")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: bpflink {name} ")
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("lnks",), "invalid choice: 'lnks'"),
        (("vm", "6.1", "uname", "-r"), "unrecognized arguments: uname -r"),
        (("links", "--", "true"), "runs no other program: leave out -- and the words after it"),
        (("vm", "6.1", "--memory", "0"), "'0' is no number above 0"),
        (("bisect", "x", "--kernel", "6.1"), "'6.1' is no A..B, such as 5.10..7.2"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], sentence: str) -> None:
    done = bpflink(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which Python finds no rich and no argcomplete."""
    for name in ("rich", "argcomplete"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError({name!r})\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_without_rich_it_says_what_to_install(without_rich: dict[str, str]) -> None:
    done = bpflink("kernels", **without_rich)
    assert (done.returncode, done.stdout) == (1, "")
    assert "not installed: pip install 'pytest-bpflink[cli]' (or add --json)" in done.stderr
    assert bpflink("kernels", "list", "--json", **without_rich).returncode == 0
    done = bpflink("completion", "bash", **without_rich)
    assert done.returncode == 1
    assert "pip install 'pytest-bpflink[cli]'" in done.stderr


def test_vm_imports_nothing_that_it_does_not_use() -> None:
    """`bpflink vm` answers in half a second, most of which the guest takes."""
    show = "import sys; from pytest_bpflink import cli; cli._parser(['vm']); print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", show], text=True).split()
    assert not {"rich", "argcomplete", "pytest", "filelock", "ctypes"}.intersection(loaded)


def test_output_that_nobody_reads() -> None:
    command = f"{BPFLINK} completion bash | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"0", "141"}
    assert done.stderr == ""
