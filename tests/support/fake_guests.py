"""Guests that are ordinary processes of this machine: a plugin for pytester.

A guest's SPEC says how the guest behaves: see `FakeMachines`. A test that runs in such a guest can
call `panic` and `taint`. Each boot adds a line to the file `boots` in the current directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_bpflink.vm.kernels import Kernel, KernelError
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.machines.errors import BootFailed, MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.building.recipe import Made, Recipe

_CONSOLE = "FAKE_GUEST_CONSOLE"
_ERRORS = "stderr.log"


def booted(directory: Path | None = None) -> list[str]:
    """Return the cues of the machines that were started, from DIRECTORY's file `boots`."""
    return ((directory or Path()) / "boots").read_text().split()


def panic(words: str) -> NoReturn:
    """Write to the console and die: the host sees the same as of a kernel panic."""
    Path(os.environ[_CONSOLE]).write_text(f"Kernel panic - not syncing: {words}\n")
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("unreachable")


def taint(bits: int) -> None:
    """Let the guest's kernel appear tainted with these bits."""
    _tainted().write_text(str(bits))


def _tainted() -> Path:
    return Path(os.environ[_CONSOLE]).with_name("tainted")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if _CONSOLE in os.environ:
        from pytest_bpflink.matrix.worker import taint

        taint.TAINTED = _tainted()
        taint.TAINTED.write_text("0")
    # A guest's tests are assumed to be alone on their kernel. These guests share the host's.
    config.option.bpf_leaks = config.option.bpf_leaks or "off"
    config.option.bpf_dmesg = config.option.bpf_dmesg or "off"
    if config.getoption("kernel") and not hasattr(config, "workerinput"):
        # Only with --kernel: these modules import xdist.
        from pytest_bpflink.matrix.controller.watchdog import LIMITS, Limits
        from pytest_bpflink.matrix.guests.machines import MACHINES

        config.stash[MACHINES] = FakeMachines()
        limits = Limits.of(config.getoption("kernel_timeout"))
        named = (pair.split("=") for pair in os.environ.get("FAKE_GUEST_LIMITS", "").split())
        config.stash[LIMITS] = replace(limits, **{name: float(value) for name, value in named})


class FakeMachines:
    """The beginning of a SPEC chooses a behaviour; any other SPEC gives a guest that works.

    unknown: there is no such kernel. unbootable: the kernel does not boot. bootsonce: the second
    machine does not boot. unreachable: no worker can be started in the machine. mistaken: the
    machine runs another kernel. noqemu: no machine can be started. mute: the machine sends nothing
    to execnet. slow: each machine but the first takes 2 s to boot. full: the disk is full.
    fullsoon: the disk is full when the second machine starts. filling: the disk is full before the
    machine is ready. fillingsoon: before the second machine is ready.
    """

    def __init__(self) -> None:
        self._booted: set[str] = set()

    def find(self, spec: str, progress: Callable[[str], None]) -> Kernel:
        progress(f"{spec}: fetching")
        if spec.startswith("unknown"):
            raise KernelError(f"there is no kernel {spec}; there are: good")
        release = "0.0.1" if spec.startswith("mistaken") else os.uname().release
        return Kernel(spec, spec, release, Path("/nowhere"), None, {})

    def acceleration(self, kernel: Kernel) -> Acceleration:
        del kernel
        return Acceleration(kvm=False, reason="TCG: a fake has no hardware")

    def machine(self, kernel: Kernel, *, directory: Path, console_log: Path | None) -> FakeMachine:
        cue = kernel.spec
        if cue.startswith("bootsonce") and cue in self._booted:
            cue = "unbootable"
        if cue == "slow" and cue not in self._booted:
            cue = "quick"
        if cue.endswith("soon") and cue in self._booted:
            cue = cue.removesuffix("soon")
        self._booted.add(kernel.spec)
        return FakeMachine(cue, directory, console_log or directory / "console.log")

    def via(self, kernel: Kernel) -> None:
        del kernel

    def compile(self, sources: Sequence[Path], libbpfs: Sequence[str]) -> None:
        del sources, libbpfs

    def made(self, spec: str, recipe: Recipe) -> Made:
        del spec
        from pytest_bpflink.building import compilation

        return compilation.made(recipe)

    def close(self) -> None:
        pass


class FakeMachine:
    """Two processes that execnet starts, and that can be killed without execnet's help.

    The first is what PID 1 is in a guest: it prints on the console how the second, the worker's
    Python, ended. Both are in a process group of their own.
    """

    def __init__(self, cue: str, directory: Path, console: Path) -> None:
        self._cue = cue
        self._directory = directory
        self._console = console
        self._killed = threading.Event()

    @property
    def gateway_python(self) -> str:
        if self._cue.startswith("unreachable"):
            return "false"
        command = [sys.executable, __file__, str(self._directory), str(self._console)]
        if self._cue.startswith("mute"):
            # The command ignores the arguments that execnet appends.
            command += ["-c", "import time; time.sleep(60)"]
        return shlex.join(command)

    def start(self) -> None:
        if self._cue.startswith("noqemu"):
            raise MachineError("QEMU is not installed: apt-get install qemu-system-x86")
        if self._cue == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "launch.sh")
        with Path("boots").open("a") as boots:
            boots.write(f"{self._cue}\n")

    def wait_ready(self, timeout: float) -> None:
        del timeout
        if self._cue == "slow":
            self._killed.wait(2)
        if self._cue == "filling":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "save")
        if self._cue.startswith("unbootable"):
            raise BootFailed("ended before its Python ran\nNo working init found", timed_out=False)

    def kill(self) -> None:
        self._killed.set()
        # If `_main` has not written its pid yet, it sees this file and exits.
        (self._directory / "killed").touch()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.killpg(int((self._directory / "pid").read_text()), signal.SIGKILL)

    def close(self) -> None:
        self.kill()

    def console_tail(self, *, lines: int) -> str:
        if not self._console.exists():
            return ""
        return "\n".join(self._console.read_text().splitlines()[-lines:])

    def errors_tail(self, *, lines: int) -> str:
        errors = self._directory / _ERRORS
        if not errors.exists():
            return ""
        return "\n".join(errors.read_text().splitlines()[-lines:])


def _main() -> None:
    directory, console, *arguments = sys.argv[1:]
    os.setpgid(0, 0)
    (Path(directory) / "pid").write_text(str(os.getpid()))
    if (Path(directory) / "killed").exists():
        sys.exit("killed")
    environment = os.environ | {_CONSOLE: console}
    with (Path(directory) / _ERRORS).open("w") as errors:
        worker = subprocess.Popen([sys.executable, *arguments], stderr=errors, env=environment)
    status = worker.wait()
    how = f"with status {status}" if status >= 0 else f"by signal {-status}"
    with Path(console).open("a") as file:
        file.write(f"bpflink: worker {worker.pid} ended {how}\n")


if __name__ == "__main__":
    _main()
