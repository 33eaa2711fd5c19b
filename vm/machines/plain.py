"""A plain guest: virtme-ng's init on the host's root, as virtme-ng composes it.

Knows the program of the guest, and the directories of the host that it needs. `machine` starts,
watches and ends QEMU.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm import guest
from pytest_bpflink.vm.cache import cache_root
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

# virtme-ng's init mounts a file system on each, which hides the host's files there from the guest.
_HIDDEN = ("/run", "/dev", "/proc", "/sys", "/var/log", "/var/tmp", "/var/cache")  # noqa: S108

# Variables with directories that programs write to, beside the working directory.
_WRITABLE_VARIABLES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "BPFLINK_CACHE", "PYTHONPYCACHEPREFIX")


@dataclass(frozen=True)
class Worker:
    """The Python to run in the guest: its executable, directory and environment, as on the host.

    `writable` is the only directory of the host that it may write to. With a `session`, which are
    arguments of `run` in guest/session.py, it runs a command and no worker of execnet's.
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
    worker: Worker,
    memory_mib: int,
    cpus: int,
    append: Sequence[str],
) -> list[str]:
    """Return the QEMU command of a guest; its files are made in DIRECTORY.

    Start the command with pipes as stdin and stdout: the guest's Python gets them as its own.
    Raises ComposeError.
    """
    launch = directory / "launch.sh"
    # It holds the environment, with all secrets.
    launch.touch(mode=0o600)
    # A variable need not be UTF-8.
    launch.write_bytes(os.fsencode(_show_config(kernel) + worker.launch_script()))
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
            *(
                f"--rodir={path}"
                for path in _hidden([directory, *needed_paths(kernel, worker.cwd)])
            ),
            *("--script-sh", shlex.join(["exec", "sh", str(GUEST_SCRIPT), str(launch)])),
            *(f"--kopt={option}" for option in [*virtme.kernel_options(kernel), *append]),
            # QEMU reads it when virtme-ng has ended.
            *("--save-initramfs", str(directory / "initramfs")),
        ],
        modules=True,
    )
    return virtme.redirected(composed, errors=directory / "stderr.log")


def _show_config(kernel: Kernel) -> str:
    """Return shell commands that link the kernel's configuration where libbpf looks for it."""
    if kernel.config_file is None:
        return ""
    place = shlex.quote(f"/boot/config-{kernel.release}")
    return f"[ -e {place} ] || ln -s {shlex.quote(str(kernel.config_file))} {place}\n"


def _overlaid(worker: Worker) -> list[str]:
    """Return the directories on which the guest has an overlay, so that tests can write there.

    Writes stay in the guest; below the overlay the host's files are read-only. `usual` are the
    directories of `vng`; the kernel's command line has no room for every directory of a root.
    """
    usual = {"boot", "etc", "home", "opt", "srv", "tmp", "usr", "var"}
    named = [worker.environment.get(name, "") for name in _WRITABLE_VARIABLES]
    tops = {path.split("/")[1] for path in [str(worker.cwd), *named] if path.startswith("/")}
    kernels_own = {"", "dev", "proc", "run", "sys"}
    return [f"/{name}" for name in sorted(usual | tops - kernels_own) if Path(f"/{name}").is_dir()]


def needed_paths(kernel: Kernel, cwd: Path, *, python: bool = True) -> list[Path]:
    """Return the directories of the host that a guest must see, wherever they are.

    Those of this Python are among them, unless PYTHON is false.
    """
    wanted = [cwd, *([Path(sys.prefix)] if python else []), guest.DIRECTORY, cache_root()]
    if kernel.module_directory:
        # Of modules that have an index of ours there are links: to directories, or to a build tree.
        links = (path for path in kernel.module_directory.iterdir() if path.is_symlink())
        wanted += [kernel.module_directory, *(path.resolve() for path in links)]
    if kernel.config_file:
        wanted.append(kernel.config_file.parent)
    return list(dict.fromkeys(path for path in wanted if path.is_dir()))


def _hidden(needed: Sequence[Path]) -> list[Path]:
    return [path for path in needed if any(path.is_relative_to(hidden) for hidden in _HIDDEN)]
