"""Shells complete bpflink's arguments, set up as `bpflink completion --help` says."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command import BPFLINK, bpflink

# zsh and argcomplete take half a second.
DEADLINE = 30.0

LINES = pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bpflink ke", {"kernels"}),
        ("bpflink kernels ", {"list", "fetch", "remove", "prune", "check", "config", "sources"}),
        ("bpflink vm ne", {"newest"}),
        ("bpflink completion ", {"bash", "zsh", "fish"}),
        ("bpflink links --j", {"--json"}),
    ],
)

# For an empty word, options are offered as well.
OPTIONS = {"-h", "--help"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user without settings, with bpflink on PATH."""
    path = f"{Path(BPFLINK).parent}:{os.environ['PATH']}"
    homes = dict.fromkeys(("HOME", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(tmp_path))
    return os.environ | homes | {"PATH": path, "TERM": "dumb", "COLUMNS": "200"}


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(shell), reason=f"{shell} is not here")


@LINES
def test_bash_completes(line: str, offered: set[str], environment: dict[str, str]) -> None:
    script = f"""
        eval "$(bpflink completion bash)"
        COMP_LINE={line!r} COMP_POINT={len(line)} COMP_TYPE=9
        COMP_WORDS=({line}{"" if line[-1] != " " else " ''"}) COMP_CWORD=$((${{#COMP_WORDS[@]}}-1))
        _python_argcomplete bpflink
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    command = ["bash", "-c", script]
    said = subprocess.check_output(command, text=True, env=environment)
    assert {word.strip() for word in said.splitlines()} - OPTIONS == offered


@needs("fish")
@LINES
def test_fish_completes(
    line: str, offered: set[str], environment: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "fish/completions/bpflink.fish"
    file.parent.mkdir(parents=True)
    file.write_text(bpflink("completion", "fish").stdout)
    command = ["fish", "-c", f"complete --do-complete {line!r}"]
    said = subprocess.check_output(command, text=True, env=environment)
    assert {words.partition("\t")[0] for words in said.splitlines()} - OPTIONS == offered


@needs("zsh")
@LINES
def test_zsh_completes(
    line: str, offered: set[str], environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / ".zshrc").write_text(
        "autoload -Uz compinit; compinit -u -D\n"
        'eval "$(bpflink completion zsh)"\n'
        # Lists what is offered, and leaves the line as it is.
        "bindkey '^T' list-choices\n"
        "PS1=ready; echo\n"
    )
    terminal, theirs = pty.openpty()
    command = ["setsid", "--ctty", "zsh", "-i"]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as zsh:
        os.close(theirs)
        try:
            read_up_to(terminal, "ready")
            os.write(terminal, line.encode() + b"\x14")
            shown = read_up_to(terminal, *offered)
        finally:
            zsh.kill()
            os.close(terminal)
    assert set(re.findall(r"[\w-]+", shown)) >= offered


def read_up_to(terminal: int, *words: str) -> str:
    """Read a terminal until it has shown these words, and return all that it showed."""
    shown, deadline = "", time.monotonic() + DEADLINE
    while not all(word in shown for word in words):
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], shown
        shown += os.read(terminal, 4096).decode()
    return shown
