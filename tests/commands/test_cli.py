"""The `bpflink` command itself: help, exit statuses, its streams, tables, and life without rich."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
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
        (("vm", "6.1", "--cpus", "0"), "'0' is no number above 0"),
        (("vm", "6.1", "--memory", "223"), "223 MiB is too little: a guest needs 224 MiB to boot"),
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


def test_without_rich_tables_are_lists(without_rich: dict[str, str]) -> None:
    done = bpflink("doctor", **without_rich)
    assert done.stdout.startswith("check: kernel\n  result: ok\n  found: Linux ")
    assert done.stdout.splitlines()[-2].startswith("tests on this kernel: ")
    assert bpflink("kernels", **without_rich).returncode == 0


def test_without_rich_and_argcomplete_it_says_what_to_install(
    without_rich: dict[str, str],
) -> None:
    done = bpflink("completion", "bash", **without_rich)
    assert done.returncode == 1
    assert "pip install 'pytest-bpflink[cli]'" in done.stderr
    done = bpflink("links", "--watch", **without_rich)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "bpflink: this needs rich, which is not installed: pip install 'pytest-bpflink[cli]'"
        " (or add --json)\n"
    )


_ROWS = (
    "[('QEMU', '', 'qemu-system-x86_64 is not on the PATH of this user', ''),"
    " ('disk', '', '/srv/a-long/path-to/a-directory/of-the-cache', 'size')]"
)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (
            90,
            """
            check   found                                                to do
            ──
            QEMU    qemu-system-x86_64 is not on the PATH of this user
            disk    /srv/a-long/path-to/a-directory/of-the-cache         size
            """,
        ),
        (
            60,
            """
            check   found                                          to do
            ──
            QEMU    qemu-system-x86_64 is not on the PATH of
                    this user
            disk    /srv/a-long/path-to/a-directory/of-the-cache   size
            """,
        ),
        (
            40,
            """
            check: QEMU
              found: qemu-system-x86_64 is not on
                the PATH of this user

            check: disk
              found:
                /srv/a-long/path-to/a-directory/of-the-cache
              to do: size
            """,
        ),
    ],
)
def test_table_breaks_no_word_and_has_no_empty_column(columns: int, shown: str) -> None:
    script = (
        "from pytest_bpflink.commands import output\n"
        f"output.write(output.table(('check', 'result', 'found', 'to do'), {_ROWS}))"
    )
    said = on_a_terminal([sys.executable, "-c", script], columns=columns)
    lines = [line.rstrip() for line in re.sub(r"\x1b\[\d*m", "", said).splitlines()]
    lines = [re.sub("─+", "──", line) for line in lines]
    assert "\n".join(lines).strip() == textwrap.dedent(shown).strip()


@pytest.mark.parametrize("columns", [60, 100])
def test_doctor_breaks_no_word_on_a_terminal(columns: int, tmp_path: Path) -> None:
    """Each word of the JSON is in what people see."""
    environment = {"BPFLINK_CACHE": str(tmp_path), "PATH": "/usr/bin"}
    checks = json.loads(bpflink("doctor", "--json", **environment).stdout)["checks"]
    said = on_a_terminal([BPFLINK, "doctor"], columns=columns, **environment)
    missing = {
        word
        for check in checks
        for word in f"{check['found']} {check['advice']}".split()
        if word not in said and check["name"] != "disk"
    }
    assert missing == set()


def on_a_terminal(command: list[str], *, columns: int, **environment: str) -> str:
    """Run a command on a terminal of this width, and return its output."""
    pid, terminal = pty.fork()
    if not pid:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        os.environ.pop("COLUMNS", None)
        os.execve(command[0], command, os.environ | environment)  # noqa: S606
    seen = b""
    with contextlib.suppress(OSError):  # EIO: the command ended
        while more := os.read(terminal, 1 << 16):
            seen += more
    os.close(terminal)
    os.waitpid(pid, 0)
    return seen.decode().replace("\r\n", "\n")


@pytest.mark.parametrize(
    "arguments", ["--help", "doctor", "kernels", "kernels list --json", "completion bash"]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_can_not_be_written_is_an_error(arguments: str, unbuffered: str) -> None:
    done = in_shell(f"{BPFLINK} {arguments} > /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1:] == [
        "bpflink: the output can't be written: No space left on device"
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", ["--help", "doctor", "kernels", "completion bash"])
@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_as_dev_null(arguments: str, streams: str) -> None:
    done = in_shell(f"{BPFLINK} {arguments} {streams}")
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr


def test_current_directory_that_was_removed_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    sentence = f"bpflink: {gone}, the current directory, was removed: change to another one\n"
    for arguments, status in (("vm 6.12 -- true", 125), ("vm 6.12 --rw . -- true", 1)):
        done = in_shell(f"mkdir {gone}; cd {gone}; rmdir {gone}; {BPFLINK} {arguments}")
        assert (done.returncode, done.stdout, done.stderr) == (status, "", sentence)


def in_shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


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
