"""Guests on other hosts: with a real sshd on the loopback, and with a channel that is a fake."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.matrix.guests.hosts import Host, HostedMachine
from pytest_bpflink.vm.machines.errors import BootFailed, MachineError
from pytest_bpflink.vm.warm.saves import Saves
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from execnet import Channel

# Runs ssh's command with an empty directory in place of the tree, as on a host without it.
WITHOUT_TREE = """#!/bin/sh
export SSH_ORIGINAL_COMMAND
exec unshare --mount sh -c 'mount -t tmpfs none "{directory}" && exec sh -c "$SSH_ORIGINAL_COMMAND"'
"""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The value for --kernel-host; `command` in `tmp_path` runs the commands that ssh sends."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if not program:
        pytest.skip("sshd is not installed: make test TEST_PACKAGES=openssh-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for key in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / key], check=True
        )
    # sshd requires this directory, which the system's service would make.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    command = tmp_path / "command"
    command.write_text('#!/bin/sh\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    command.chmod(0o755)
    server = tmp_path / "sshd_config"
    server.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nUsePAM no\nPidFile none\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nStrictModes no\nPermitRootLogin yes\n"
        f"ForceCommand {command}\n"
    )
    client = tmp_path / "ssh_config"
    client.write_text(
        f"Host there\nHostName 127.0.0.1\nPort {port}\nIdentityFile {tmp_path}/user\n"
        "IdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"
        "LogLevel ERROR\n"
    )
    with subprocess.Popen([program, "-D", "-e", "-f", server], stderr=subprocess.DEVNULL) as sshd:
        try:
            eventually(lambda: is_open(port), within=10, what="sshd listens")
            # ssh reads no other file of settings than that of its user's home in /etc/passwd.
            ssh = tmp_path / "bin/ssh"
            ssh.parent.mkdir()
            ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {client} "$@"\n')
            ssh.chmod(0o755)
            monkeypatch.setenv("PATH", str(ssh.parent), prepend=os.pathsep)
            yield "ssh=there"
        finally:
            sshd.terminate()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def stored_kernels(pytester: pytest.Pytester, tmp_path: Path) -> None:
    cache_of_host(tmp_path).symlink_to(CACHE)
    pytester.makeini("[pytest]\naddopts = -v -W error -p no:cacheprovider")


@pytest.fixture
def no_saves(pytester: pytest.Pytester, tmp_path: Path) -> Saves:
    """The saves in the host's cache: none yet, beside the kernels and the finding about KVM."""
    cache = cache_of_host(tmp_path)
    cache.mkdir()
    for kept in ("kernels", "kvm.json"):
        (cache / kept).symlink_to(CACHE / kept)
    pytester.makeini("[pytest]\naddopts = -v -W error -p no:cacheprovider")
    return Saves(cache / "guests")


def cache_of_host(tmp_path: Path) -> Path:
    """Return the cache of commands that ssh runs; guests get the controller's environment."""
    command, caches = tmp_path / "command", tmp_path / "caches"
    caches.mkdir()
    setting = f"unset BPFLINK_CACHE\nexport XDG_CACHE_HOME='{caches}'\n"
    command.write_text(command.read_text().replace("exec", f"{setting}exec"))
    return caches / "pytest-bpflink"


@pytest.mark.usefixtures("address", "stored_kernels")
def test_guests_run_on_another_host_and_are_replaced_there(
    pytester: pytest.Pytester, address: str, tmp_path: Path
) -> None:
    (pytester.path / "broken.bpf.c").write_text("nonsense")
    pytester.makepyfile(
        """
        import os
        import subprocess
        from pathlib import Path
        import pytest
        from pytest_bpflink import CompileError
        from pytest_bpflink.building.compilation import object_of

        def test_does_not_compile(request, monkeypatch):
            # It was tried on each guest's host.
            if "6.1" in request.node.name:
                monkeypatch.setattr(subprocess, "run", None)
            with pytest.raises(CompileError, match="unknown type name"):
                object_of(request.path.with_name("broken.bpf.c"))

        @pytest.mark.parametrize("n", range(3))
        def test_x(n, request):
            release = request.node.get_closest_marker("on_kernel").kwargs["release"]
            assert os.uname().release == release
            if n == 1 and "6.1" in request.node.name:
                Path("/proc/sysrq-trigger").write_text("c")
        """
    )

    result = pytester.runpytest_subprocess(
        *("--kernel", "native,6.1", "--kernel-host", address),
        *("--kernel-log", tmp_path / "logs"),
        timeout=400,
    )

    result.assert_outcomes(passed=7, failed=1)
    result.stdout.re_match_lines(
        [
            r"kernel 6\.1: Linux 6\.1\.\S+ .*, ssh=there",
            r"kernel 6\.1: the guest .* died in the call of this test: Kernel panic.* sysrq .*",
        ]
    )
    assert "sysrq triggered crash" in (tmp_path / "logs/6.1-1.log").read_text()


@pytest.mark.usefixtures("address")
def test_a_guest_on_another_host_is_saved_there_and_the_next_run_restores_it(
    pytester: pytest.Pytester, address: str, no_saves: Saves
) -> None:
    pytester.makepyfile(
        """
        import os
        from pathlib import Path

        def test_the_guest_is_as_the_options_say():
            memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 10
            assert 300 < memory < 400
            assert os.cpu_count() == 2
            assert "bpflink.word" in Path("/proc/cmdline").read_text().split()
        """
    )
    options = ("--kernel-memory=400", "--kernel-cpus=2", "--kernel-append=quiet bpflink.word")
    arguments = ("--kernel", "6.1", "--kernel-host", address, *options)

    first = pytester.runpytest_subprocess(*arguments, timeout=400)

    first.assert_outcomes(passed=1)
    first.stdout.fnmatch_lines(["6.1: saving a guest, which later ones are restored from"])
    [(key, (saved_at, _))] = no_saves.kept().items()

    second = pytester.runpytest_subprocess(*arguments, timeout=400)

    second.assert_outcomes(passed=1)
    second.stdout.no_fnmatch_line("6.1: saving a guest*")
    second.stdout.no_fnmatch_line("6.1: the guest is *")
    [(restored, (used_at, _))] = no_saves.kept().items()
    assert restored == key
    assert used_at > saved_at


@pytest.mark.usefixtures("address", "no_saves")
def test_a_host_that_is_lost_while_its_guest_boots_is_an_error_of_its_items_only(
    pytester: pytest.Pytester, address: str, tmp_path: Path
) -> None:
    pytester.makepyfile("def test_x(): pass")
    command, pids = tmp_path / "command", tmp_path / "pids"
    command.write_text(command.read_text().replace("exec", f"echo $$ >> {pids}\nexec"))

    with pytester.popen(
        [sys.executable, "-m", "pytest", "--kernel", "native,6.1", "--kernel-host", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert any("6.1: saving a guest" in line for line in run.stdout)
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        output = run.stdout.read()

    assert "did not boot" in output
    assert "the connection is lost" in output
    assert "1 passed, 1 error in" in output


@pytest.mark.usefixtures("address", "stored_kernels")
def test_a_host_that_is_lost_before_its_guest_starts_is_an_error_of_its_items_only(
    pytester: pytest.Pytester, address: str, tmp_path: Path
) -> None:
    pytester.makepyfile("def test_x(): pass")
    command, pids = tmp_path / "command", tmp_path / "pids"
    command.write_text(command.read_text().replace("exec", f"echo $$ >> {pids}\nexec"))
    pytester.makeconftest(
        f"""
        import os, pytest, signal
        from pathlib import Path

        @pytest.hookimpl(tryfirst=True)
        def pytest_xdist_setupnodes():
            for pid in Path({str(pids)!r}).read_text().split():
                os.kill(int(pid), signal.SIGKILL)
        """
    )

    result = pytester.runpytest_subprocess("--kernel", "native,6.1", "--kernel-host", address)

    result.assert_outcomes(passed=1, errors=1)
    # Where the start itself failed, nothing else is told of the host.
    result.stdout.fnmatch_lines([f"--kernel 6.1: --kernel-host {address}: the connection is lost"])


def test_a_host_without_the_tree_is_refused(
    pytester: pytest.Pytester, address: str, tmp_path: Path
) -> None:
    file = pytester.makepyfile("def test_x(): pass")
    (tmp_path / "command").write_text(WITHOUT_TREE.format(directory=pytester.path))

    result = pytester.runpytest_subprocess("--kernel", "6.1", "--kernel-host", address, file)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: --kernel-host ssh=there*: *{file}*is not there; the tree is expected*"]
    )


def test_a_host_without_the_python_is_refused(
    pytester: pytest.Pytester, address: str, tmp_path: Path
) -> None:
    pytester.makepyfile("def test_x(): pass")
    (tmp_path / "command").write_text("#!/bin/sh\nexit 127\n")

    result = pytester.runpytest_subprocess("--kernel", "6.1", "--kernel-host", address)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kernel-host *could not be started there*same paths*"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ssh=0.0.0.256", "ERROR: --kernel-host ssh=0.0.0.256: *could not be started there*"),
        ("127.0.0.1", "ERROR: --kernel-host 127.0.0.1: write --kernel-host ssh=HOST"),
    ],
)
def test_what_is_no_host_is_a_usage_error(
    pytester: pytest.Pytester, value: str, message: str
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_subprocess("--kernel", "6.1", "--kernel-host", value)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    "destination",
    ["-oProxyCommand=touch${IFS}ran", "x -oProxyCommand=touch${IFS}ran", "x//python=sh", "ssh://x"],
)
def test_what_ssh_or_execnet_would_take_for_options_is_refused_and_not_run(
    pytester: pytest.Pytester, destination: str
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = pytester.runpytest_subprocess("--kernel", "6.1", "--kernel-host", f"ssh={destination}")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().rstrip() == (
        f"ERROR: --kernel-host ssh={destination}: '{destination}' is no host name, nor USER@HOST;"
        " options of ssh, as a port, belong into ~/.ssh/config"
    )
    assert not (pytester.path / "ran").exists()


# The conversation with a host.


class FakeHost:
    """A host that begins at once, and answers other requests when the test says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, str, dict[str, Any]]] = []
        self.channel = cast("Channel", self)
        self.answer: Callable[[object], None]

    def __call__(self, address: str, program: str) -> FakeHost:
        del address, program
        return self

    def setcallback(self, callback: Callable[[object], None], endmarker: None) -> None:
        assert endmarker is None
        self.answer = callback

    def send(self, request: tuple[int, str, dict[str, Any]]) -> None:
        number, what, _ = request
        if what == "begin":
            self.answer((number, None, {"missing": [], "free_cores": 1.0}))
        else:
            self.requests.append(request)

    def close(self) -> None:
        """End nothing."""


@pytest.fixture
def there() -> FakeHost:
    return FakeHost()


@pytest.fixture
def said() -> list[str]:
    """The lines that the host had for the terminal."""
    return []


@pytest.fixture
def host(there: FakeHost, said: list[str]) -> Host:
    return Host("ssh=there", proxy="host1", connect=there, say=said.append)


def test_a_host_that_is_slow_is_not_called_lost(host: Host) -> None:
    with pytest.raises(
        MachineError, match=r"^--kernel-host ssh=there did not answer within 0 s \(find\), and the "
    ):
        host.ask("find", patience=0)


def test_an_answer_that_comes_too_late_is_dropped(host: Host, there: FakeHost) -> None:
    with pytest.raises(MachineError, match="did not answer"):
        host.ask("find", patience=0)
    [(late, _, _)] = there.requests

    there.answer((late, None, "late"))

    assert host._answers == {}


def test_a_request_after_one_that_was_given_up_gets_its_answer(
    host: Host, there: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MachineError, match="did not answer"):
        host.ask("find", patience=0)
    [(late, _, _)] = there.requests

    def send(request: tuple[int, str, object]) -> None:
        there.answer((late, None, "late"))
        there.answer((request[0], None, "in time"))

    monkeypatch.setattr(there, "send", send)

    assert host.ask("find") == "in time"


def test_a_lost_connection_is_called_so(host: Host, there: FakeHost) -> None:
    there.answer(None)

    with pytest.raises(MachineError, match=r"^--kernel-host ssh=there: the connection is lost$"):
        host.ask("find", patience=0)


def test_a_line_of_a_host_is_no_answer(host: Host, there: FakeHost, said: list[str]) -> None:
    there.answer("6.1: saving a guest")

    assert said == ["6.1: saving a guest"]
    assert host._answers == {}


def test_a_guest_whose_host_is_lost_did_not_boot(host: Host, there: FakeHost) -> None:
    """So its items are errors that say why, and the other kernels run."""
    there.answer(None)

    with pytest.raises(BootFailed, match="the connection is lost"):
        HostedMachine(host, "6.1", None).wait_ready(0)


def test_a_guest_that_starts_after_its_host_was_given_up_is_closed(
    host: Host, there: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = HostedMachine(host, "6.1", None)
    monkeypatch.setattr(host, "ask", lambda what, **_: host_is_slow(what, there))

    with pytest.raises(MachineError):
        machine.start()
    machine.close()

    assert [what for _, what, _ in there.requests] == ["start", "close"]


def host_is_slow(what: str, there: FakeHost) -> None:
    there.requests.append((0, what, {}))
    raise MachineError("did not answer")
