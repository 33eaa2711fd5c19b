"""Guests on other hosts, with a real sshd on the loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from collections.abc import Iterator

# Runs ssh's command with an empty directory in place of the tree, as on a host without it.
WITHOUT_TREE = """#!/bin/sh
export SSH_ORIGINAL_COMMAND
exec unshare --mount sh -c 'mount -t tmpfs none "{directory}" && exec sh -c "$SSH_ORIGINAL_COMMAND"'
"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
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
            yield f"ssh=there//ssh_config={client}"
        finally:
            sshd.terminate()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def stored_kernels(pytester: pytest.Pytester, tmp_path: Path) -> None:
    # A command that ssh starts does not get pytester's environment.
    command = tmp_path / "command"
    command.write_text(command.read_text().replace("exec", f"export BPFLINK_CACHE='{CACHE}'\nexec"))
    pytester.makeini("[pytest]\naddopts = -v -W error -p no:cacheprovider")


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
            r"kernel 6\.1: Linux 6\.1\.\S+ .*, ssh=there//ssh_config=.*",
            r"kernel 6\.1: the guest .* died in the call of this test: Kernel panic.* sysrq .*",
        ]
    )
    assert "sysrq triggered crash" in (tmp_path / "logs/6.1-1.log").read_text()


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
        ("ssh=127.0.0.1 -p 1", "ERROR: --kernel-host ssh=127.0.0.1 -p 1: *could not be started*"),
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
