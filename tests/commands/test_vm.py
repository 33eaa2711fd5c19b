"""`bpflink vm` in real guests: streams, terminal, signals and statuses are as on this host."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from tests.support.command import BPFLINK, bpflink
from tests.support.long import long
from tests.support.processes import children_of, is_running

if TYPE_CHECKING:
    from collections.abc import Iterator

# A guest that is emulated beside others may need this long for a short command.
DEADLINE = 60.0

KERNEL = "6.12"

FULL = "bpflink: the command's output can't be written: No space left on device\n"

# The bytes that `bpflink vm` reads ahead of the command, and a pipe's.
MOST_UNREAD_INPUT = (256 + 64) << 10


@pytest.fixture(scope="module", autouse=True)
def saved() -> None:
    """Save a guest, so that no command under test prints that it saves one."""
    assert bpflink("vm", KERNEL, "--", "true").returncode == 0


def sh(script: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a guest."""
    return bpflink("vm", KERNEL, "--", "sh", "-c", script, **options)


def test_command_runs_in_this_directory_on_another_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").write_text("this host's")
    script = """
        uname -r; pwd; cat here; echo; id -u; echo "$COLOUR"; umask
        echo "stays in the guest" > there && cat there
        cat; echo "to stderr" >&2; exit 7
    """
    done = sh(script, stdin="from stdin\n", COLOUR="green")
    release, *lines = done.stdout.splitlines()
    assert release.startswith(f"{KERNEL}.")
    umask = f"{current_umask():04o}"
    there = "stays in the guest"
    assert lines == [str(tmp_path), "this host's", "0", "green", umask, there, "from stdin"]
    assert (done.stderr, done.returncode) == ("to stderr\n", 7)
    assert os.listdir(tmp_path) == ["here"]


@long
def test_in_a_plain_guest_too(tmp_path: Path) -> None:
    program = f"""
import sys
from pytest_bpflink import cli
from pytest_bpflink.vm.image import inventory

def take(*_, **__):
    raise inventory.ImageError("none shall be made")

inventory.take = take
sys.argv[1:] = ["vm", "{KERNEL}", "--", "sh", "-c", "pwd; cat; echo to stderr >&2; exit 7"]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        input="from stdin",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == (f"{tmp_path}\nfrom stdin", 7)
    said = "bpflink: the guest is a plain one: none shall be made\nto stderr\n"
    assert done.stderr == said


def test_randomness_is_each_guest_s_own() -> None:
    first, second = (sh("head -c 16 /dev/urandom | od -An -tx1").stdout for _ in range(2))
    assert len(first.split()) == 16
    assert first != second


def test_files_that_are_written_to_the_rw_directory_are_kept(tmp_path: Path) -> None:
    script = f"cd {tmp_path} && head -c 5000000 /dev/zero > big && echo done > results"
    done = bpflink("vm", KERNEL, "--rw", str(tmp_path), "--", "sh", "-c", script)

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "big").stat().st_size == 5_000_000
    assert (tmp_path / "results").read_text() == "done\n"


def test_a_directory_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    done = bpflink("vm", KERNEL, "--rw", str(tmp_path / "absent"), "--", "true")

    assert done.returncode == 2
    assert f"--rw: {tmp_path}/absent does not exist: mkdir -p {tmp_path}/absent" in done.stderr


def test_pytest_in_a_guest_sweeps_nothing_of_the_host_and_runs_tests_that_need_a_guest(
    tmp_path: Path,
) -> None:
    """Locks do not pass between a guest and its host."""
    host = {"TMPDIR": str(tmp_path), "BPFLINK_RUN_DIRECTORY": str(tmp_path / "estates")}
    program = (
        "from pytest_bpflink.ledger.estate import Estate\n"
        "from pytest_bpflink.vm.scratch import Scratch\n"
        "made = Scratch(), Estate.found()\n"
        "print(flush=True)\n"
        "input()\n"
    )
    test = tmp_path / "test_x.py"
    test.write_text(
        "import pytest\n"
        "from pytest_bpflink.vm.scratch import Scratch\n"
        "@pytest.mark.guest_only\n"
        "def test_x(bpf_ledger): print(Scratch().path.parent.name)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | host,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as live:
        assert live.stdout
        assert live.stdout.readline()
        before = {path for path in tmp_path.rglob("*") if path.is_dir()}
        assert len(before) == 5
        pytest_there = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", str(test)]

        done = bpflink("vm", KERNEL, "--rw", str(tmp_path), "--", *pytest_there, **host)

        assert all(path.exists() for path in before)
        live.kill()
    assert "1 passed" in done.stdout
    assert re.search(r"test_x.py guest-bpflink-\w+$", done.stdout, re.MULTILINE), done.stdout


def current_umask() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^Umask:\t(\d+)", status, re.MULTILINE)[0], 8)


@pytest.mark.parametrize(
    ("script", "status", "said"),
    [
        ("kill -SEGV $$", 128 + signal.SIGSEGV, ""),
        ("exec nosuch", 127, "nosuch: not found"),
        ("yes", 128 + signal.SIGPIPE, ""),
    ],
)
def test_status_of_a_command_that_a_signal_ends_or_that_is_not_found(
    script: str, status: int, said: str
) -> None:
    """In the last case nobody reads the output any more, and the command gets SIGPIPE."""
    command = f"{BPFLINK} vm {KERNEL} -- sh -c '{script}' | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert said in done.stderr


def test_no_such_command() -> None:
    done = bpflink("vm", KERNEL, "--", "nosuch")
    assert (done.returncode, done.stderr) == (127, "nosuch: No such file or directory\n")
    done = bpflink("vm", KERNEL, "--", "/etc")
    assert (done.returncode, done.stderr) == (126, "/etc: Permission denied\n")


def test_no_such_kernel() -> None:
    done = bpflink("vm", "lates", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("bpflink: 'lates' names no kernel: write a release")


def test_panic_is_quoted(tmp_path: Path) -> None:
    script = "echo ready; read go; echo c > /proc/sysrq-trigger; sleep 60"
    log = ("--log", str(tmp_path / "console"))
    with started("sh", "-c", script, options=log, stdin=subprocess.PIPE) as process:
        _, said = process.communicate(b"go\n", timeout=DEADLINE)
    assert process.returncode == 121
    head, *rest = said.decode().splitlines()
    assert head == "bpflink: the guest died: Kernel panic - not syncing: sysrq triggered crash"
    assert any("sysrq_handle_crash" in line for line in rest)
    assert "sysrq triggered crash" in (tmp_path / "console").read_text()


def test_guest_that_is_powered_off() -> None:
    done = bpflink("vm", KERNEL, "--", "sh", "-c", "echo o > /proc/sysrq-trigger; sleep 60")
    assert done.returncode == 121
    assert done.stderr.startswith("bpflink: the guest ended before the command did\n")


def test_streams_are_binary_and_do_not_overrun_each_other(tmp_path: Path) -> None:
    """With more data than all buffers hold, both ways at once, and a slow reader."""
    sent = os.urandom(3 << 20)
    (tmp_path / "sent").write_bytes(sent)
    command = [BPFLINK, "vm", KERNEL, "--", "tee", "/dev/stderr"]
    reader, writer = os.pipe()
    with (
        open(reader, "rb") as output,
        (tmp_path / "sent").open("rb") as source,
        (tmp_path / "errors").open("wb") as errors,
        subprocess.Popen(command, stdin=source, stdout=writer, stderr=errors) as process,
    ):
        eventually(lambda: not select.select([], [writer], [], 0)[1], within=DEADLINE)
        os.close(writer)
        assert digest(output.read()) == digest(sent)
    assert process.returncode == 0
    assert digest((tmp_path / "errors").read_bytes()) == digest(sent)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_both_outputs_in_one_keep_their_order() -> None:
    command = [BPFLINK, "vm", KERNEL, "--", "sh", "-c", "echo 1; echo 2 >&2; echo 3; echo 4 >&2"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    assert done.stdout == b"1\n2\n3\n4\n"


@pytest.mark.parametrize(
    ("script", "output", "status", "said"),
    [
        ("echo lost", ">/dev/full", 1, FULL),
        ("echo lost; exit 5", ">/dev/full", 5, FULL),
        ("yes", ">/dev/full", 128 + signal.SIGPIPE, FULL),
        ("echo lost; exit 5", ">&-", 5, ""),
    ],
)
def test_output_that_can_not_be_written(script: str, output: str, status: int, said: str) -> None:
    """A full disk is an error; a closed output is as /dev/null."""
    command = f"{BPFLINK} vm {KERNEL} -- sh -c '{script}' {output}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_reaches_the_command(number: signal.Signals) -> None:
    script = "trap 'echo trapped; exit 3' INT TERM; echo ready; while :; do sleep 0.1; done"
    with started("sh", "-c", script) as process:
        process.send_signal(number)
        assert process.communicate(timeout=DEADLINE)[0] == b"trapped\n"
        assert process.returncode == 3


def test_signal_passes_input_that_the_command_does_not_read(tmp_path: Path) -> None:
    script = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    with (tmp_path / "zeros").open("w+b") as zeros:
        zeros.truncate(2 * MOST_UNREAD_INPUT)
        with started("sh", "-c", script, stdin=zeros) as process:
            # This process and bpflink share the file's offset.
            eventually(
                lambda: os.lseek(zeros.fileno(), 0, os.SEEK_CUR) == MOST_UNREAD_INPUT,
                within=DEADLINE,
            )
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=DEADLINE) == 3


def test_three_signals_end_a_guest_that_hangs() -> None:
    with started("sh", "-c", "trap '' INT; echo ready; sleep 600") as process:
        for _ in range(3):
            process.send_signal(signal.SIGINT)
            # A second one while the first is pending would be merged with it.
            eventually(lambda: not is_pending(signal.SIGINT, process.pid), within=DEADLINE)
        assert process.wait(timeout=DEADLINE) == 121
        assert process.stderr
        assert process.stderr.read() == b"bpflink: the guest was ended\n"


def test_nothing_is_left_of_a_command_that_was_killed(tmp_path: Path) -> None:
    with started("sh", "-c", "echo ready; sleep 600", TMPDIR=str(tmp_path)) as process:
        qemus = [
            pid
            for pid in children_of(process.pid)
            if "qemu" in Path(f"/proc/{pid}/comm").read_text()
        ]
        assert len(qemus) == 1
        process.kill()
        process.wait()
    eventually(lambda: not is_running(qemus[0]), within=DEADLINE)
    # `bpflink clean` removes the files that a killed command left.
    assert os.listdir(tmp_path)
    bpflink("clean", TMPDIR=str(tmp_path), BPFLINK_RUN_DIRECTORY=str(tmp_path / "none"))
    assert os.listdir(tmp_path) == []


@contextlib.contextmanager
def started(
    *command: str,
    options: tuple[str, ...] = (),
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a guest, and wait until it prints `ready`."""
    process = subprocess.Popen(
        [BPFLINK, "vm", KERNEL, *options, "--", *command],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )
    with process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process
        finally:
            process.kill()


def is_pending(number: signal.Signals, pid: int) -> bool:
    """Whether a signal was sent to a process, and not yet delivered."""
    pending = re.findall(r"^ShdPnd:\t(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(pending[0], 16) >> number - 1 & 1)


class Terminal:
    """A terminal with a shell in a guest on it."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def press(self, key: str) -> None:
        """Type a key, and wait until it was read, so that the next key is read by itself."""
        slave = os.open(f"/proc/{self.pid}/fd/0", os.O_RDONLY | os.O_NOCTTY)
        try:
            self.type(key)
            eventually(lambda: not select.select([slave], [], [], 0)[0], within=DEADLINE)
        finally:
            os.close(slave)

    def expect(self, pattern: str) -> str:
        """Read until the output matches, and return the match."""
        deadline = time.monotonic() + DEADLINE
        while not (found := re.search(pattern, self._seen, re.DOTALL)):
            left = deadline - time.monotonic()
            ready = select.select([self._descriptor], [], [], max(0, left))[0]
            assert ready, f"no {pattern!r} in {self._seen!r}"
            self._seen += os.read(self._descriptor, 1 << 16).decode()
        self._seen = self._seen[found.end() :]
        return found[0]

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, size)

    def wait(self) -> int:
        """Return the exit status."""
        with contextlib.suppress(OSError):
            while os.read(self._descriptor, 1 << 16):
                pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("PS1", "> ")
    pid, descriptor = pty.fork()
    if not pid:
        os.execv(BPFLINK, [BPFLINK, "vm", KERNEL])  # noqa: S606
    made = Terminal(pid, descriptor)
    made.resize(33, 111)
    yield made
    os.close(descriptor)
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_shell_on_a_terminal(terminal: Terminal) -> None:
    terminal.expect("> ")
    terminal.type("stty size; tty; uname -r\n")
    terminal.expect(r"\n33 111\r\n/dev/pts/\d+\r\n6\.12\.\S+\r\n> ")

    terminal.resize(44, 99)
    terminal.type("stty size\n")
    terminal.expect(r"\n44 99\r\n> ")

    # Ctrl-C ends the command that runs in the guest, and the shell goes on.
    terminal.type("sh -c 'echo be''gun; exec sleep 600'; echo not this\n")
    terminal.expect("begun")
    terminal.type("\x03")
    terminal.type("echo went $((40+2))\n")
    terminal.expect(r"\^C.*went 42")

    terminal.type("exit 5\n")
    assert terminal.wait() == 5


def test_typed_text_is_kept_while_the_guest_starts(terminal: Terminal) -> None:
    terminal.expect(rf"bpflink: starting {KERNEL}")
    terminal.type("echo kept $((40+2))\n")
    terminal.expect(r"\r\x1b\[K")  # the line is gone when the command starts
    terminal.expect("kept 42\r\n")


def test_ctrl_bracket_three_times_ends_the_guest(terminal: Terminal) -> None:
    terminal.expect("> ")
    for _ in range(2):
        terminal.press("\x1d")
    terminal.type("\x1d")
    terminal.expect("bpflink: the guest was ended")
    assert terminal.wait() == 121
