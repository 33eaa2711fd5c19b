"""A plain guest: virtme-ng's own init on the host's root, as virtme-ng composes it.

Makes the QEMU command and what the guest runs. Starting, watching and ending QEMU is `machine`'s
business. virtme-ng is run as a program.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.gateway import BOOTSTRAP

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_bpflink.vm.accel import Acceleration
    from pytest_bpflink.vm.image import Kernel

GUEST_SCRIPT = Path(__file__).resolve().parent / "guest" / "plain.sh"

# The line that GUEST_SCRIPT prints once the guest is ready.
READY = b"bpflink: guest ready\n"

# virtme-ng's init mounts a tmpfs on each: what the host has there is not seen by the guest.
_HIDDEN = ("/run", "/dev", "/proc", "/sys", "/var/log", "/var/tmp", "/var/cache")  # noqa: S108

# Where programs keep what they write, beside the working directory.
_WRITABLE_VARIABLES = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "BPFLINK_CACHE", "PYTHONPYCACHEPREFIX")

# The kernel's usual modules but for those that need a policy, where its config is not known.
_USUAL_LSM = "landlock,lockdown,yama"


@dataclass(frozen=True)
class Worker:
    """The Python to run in the guest: its executable, directory and environment, as on the host."""

    python: str
    cwd: Path
    environment: Mapping[str, str]

    def launch_script(self) -> str:
        """Return the shell script that becomes this Python, talking execnet on its stdio."""
        variables = [
            f"{name}={value}" for name, value in {"HOME": "/root", **self.environment}.items()
        ]
        command = ["env", "-i", *variables, self.python, "-u", "-c", BOOTSTRAP]
        return f"cd {shlex.quote(str(self.cwd))} || exit\nexec {shlex.join(command)}\n"


class ComposeError(Exception):
    """virtme-ng made no QEMU command; the message is what it said, or how to install it."""


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
    command = [
        *_virtme_run(),
        *("--kimg", str(kernel.image), "--mods", "auto" if kernel.modules else "none"),
        *("--name", f"bpflink-{re.sub('[^a-z0-9]+', '-', kernel.id.lower())}".rstrip("-")),
        *("--memory", f"{memory_mib}M", "--cpus", str(cpus)),
        # Where virtiofsd is found but does not work, virtme-ng loses 3 s finding out.
        "--force-9p",
        *([] if acceleration.kvm else ["--disable-kvm"]),
        *(f"--overlay-rwdir={path}" for path in _writable(worker)),
        *(f"--rodir={path}" for path in _hidden([directory, worker.cwd, GUEST_SCRIPT.parent])),
        *("--script-sh", shlex.join(["exec", "sh", str(GUEST_SCRIPT), str(launch)])),
        *(f"--kopt={option}" for option in [*_kernel_options(kernel), *append]),
        *("--save-initramfs", str(directory / "initramfs")),
        *("--dry-run", "--show-command"),
    ]
    # With its standard streams at hand it gives the guest ports to talk through, whatever they are.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=worker.cwd,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    if done.returncode or not done.stdout.strip():
        raise ComposeError(_explain(done.stderr))
    # virtme-ng would rather emulate than fail; what is reported as KVM shall be KVM.
    composed = [word.replace("accel=kvm:tcg", "accel=kvm") for word in shlex.split(done.stdout)]
    return _redirected(composed, console=console, errors=directory / "stderr.log")


def _virtme_run() -> list[str]:
    # In a virtual environment that is not activated its programs are not on PATH.
    beside = Path(sys.executable).parent
    program = shutil.which("virtme-run", path=f"{beside}:{os.environ.get('PATH', os.defpath)}")
    if not program:
        raise ComposeError("virtme-ng is not installed: pip install 'pytest-bpflink[vm]'")
    return [program]


def _explain(errors: str) -> str:
    """Return what virtme-ng said, less its traceback, and what to install."""
    last = next(iter(errors.strip().splitlines()[-1:]), "it said nothing")
    hints = {
        "cannot find qemu": f"QEMU is not installed: apt-get install {_qemu_package()}",
        "busybox": "apt-get install busybox-static",
        "'file'": "apt-get install file",
    }
    advice = [hint for sign, hint in hints.items() if sign in last]
    return "; ".join([f"virtme-ng could not compose a guest: {last}", *advice])


def _qemu_package() -> str:
    packages = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm"}
    return packages.get(platform.machine(), "qemu-system")


def _kernel_options(kernel: Kernel) -> Iterator[str]:
    yield "oops=panic"
    yield "panic=-1"
    # Warnings and worse; virtme-ng's own choice shows nothing but a panic.
    yield "loglevel=5"
    modules = kernel.config.get("CONFIG_LSM", _USUAL_LSM)
    yield f"lsm={modules}" if "bpf" in modules.split(",") else f"lsm={modules},bpf"


def _writable(worker: Worker) -> list[str]:
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


def _redirected(command: list[str], *, console: Path, errors: Path) -> list[str]:
    """Send the guest's console and errors to files.

    virtme-ng discards the one, and has the other overwrite QEMU's own standard error. Standard
    output that does not come through the worker's port (/dev/stdout) would garble its channel.
    """
    files = {"console": console, "stderr": errors, "dev_stdout": errors, "dev_stderr": errors}
    result = []
    for argument in command:
        chardev = re.match(r"file,id=(\w+),path=", argument)
        if chardev and chardev[1] in files:
            path = str(files[chardev[1]]).replace(",", ",,")
            result.append(f"file,id={chardev[1]},path={path},append=on")
        else:
            result.append(argument)
    return result
