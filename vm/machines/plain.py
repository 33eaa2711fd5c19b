"""A plain guest: virtme-ng's own init on the host's root, as virtme-ng composes it.

Knows what the guest runs, and which of the host's directories it needs. Starting, watching and
ending QEMU is `machine`'s business.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm import guest
from pytest_bpflink.vm.machines import virtme
from pytest_bpflink.vm.machines.gateway import BOOTSTRAP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

GUEST_SCRIPT = guest.DIRECTORY / "plain.sh"
_SESSION = guest.DIRECTORY / "session.py"

# The line that GUEST_SCRIPT prints once the guest is ready.
READY = b"bpflink: guest ready\n"

# virtme-ng's init mounts a tmpfs on each: what the host has there is not seen by the guest.
_HIDDEN = ("/run", "/dev", "/proc", "/sys", "/var/log", "/var/tmp", "/var/cache")  # noqa: S108

# Where programs keep what they write, beside the working directory.
_WRITABLE_VARIABLES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "BPFLINK_CACHE", "PYTHONPYCACHEPREFIX")


@dataclass(frozen=True)
class Worker:
    """The Python to run in the guest: its executable, directory and environment, as on the host.

    `writable` is the one directory of the host that it may write to. With a `session` it runs a
    command, and no worker of execnet's; these are the arguments of `guest/session.run`.
    """

    python: str
    cwd: Path
    environment: Mapping[str, str]
    writable: Path | None = None
    session: Mapping[str, Any] | None = None

    def launch_script(self) -> str:
        """Return the shell script that becomes this Python, talking execnet on its stdio."""
        variables = [
            f"{name}={value}" for name, value in {"HOME": "/root", **self.environment}.items()
        ]
        program = [str(_SESSION), json.dumps(self.session)] if self.session else ["-c", BOOTSTRAP]
        command = ["env", "-i", *variables, self.python, "-u", *program]
        return f"cd {shlex.quote(str(self.cwd))} || exit\nexec {shlex.join(command)}\n"


def compose(
    kernel: Kernel,
    *,
    acceleration: Acceleration,
    directory: Path,
    console: Path,
    worker: Worker,
    memory_mib: int,
    cpus: int,
    append: Sequence[str],
) -> list[str]:
    """Return the QEMU command of a guest; its files are made in DIRECTORY.

    The command's stdin and stdout are to be pipes: they are those of the guest's Python.
    Raises ComposeError.
    """
    launch = directory / "launch.sh"
    # It holds the environment, secrets and all.
    launch.touch(mode=0o600)
    launch.write_text(worker.launch_script())
    composed = virtme.compose(
        kernel,
        acceleration=acceleration,
        directory=directory,
        cwd=worker.cwd,
        memory_mib=memory_mib,
        cpus=cpus,
        options=[
            *(f"--overlay-rwdir={path}" for path in _overlaid(worker)),
            *([f"--rwdir={worker.writable}"] if worker.writable else []),
            *(f"--rodir={path}" for path in _hidden([directory, worker.cwd, guest.DIRECTORY])),
            *("--script-sh", shlex.join(["exec", "sh", str(GUEST_SCRIPT), str(launch)])),
            *(f"--kopt={option}" for option in [*virtme.kernel_options(kernel), *append]),
        ],
    )
    return virtme.redirected(composed, console=console, errors=directory / "stderr.log")


def _overlaid(worker: Worker) -> list[str]:
    """Return the directories on which the guest has an overlay, so that tests can write there.

    What is written stays in the guest: the host's files are below, and read-only. The first are
    those of `vng`; the kernel's command line has no room for every directory of a root.
    """
    usual = {"etc", "home", "opt", "srv", "tmp", "usr", "var"}
    named = [worker.environment.get(name, "") for name in _WRITABLE_VARIABLES]
    tops = {path.split("/")[1] for path in [str(worker.cwd), *named] if path.startswith("/")}
    kernels_own = {"", "dev", "proc", "run", "sys"}
    return [f"/{name}" for name in sorted(usual | tops - kernels_own) if Path(f"/{name}").is_dir()]


def _hidden(needed: Sequence[Path]) -> list[Path]:
    return [path for path in needed if any(path.is_relative_to(hidden) for hidden in _HIDDEN)]
