"""virtme-ng composes a machine's QEMU command; it is run as a program.

Knows how virtme-ng is found, run and explained, and what every guest is told. What a guest runs is
`plain`'s and `guest_image`'s business.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.machines import qemu
from pytest_bpflink.vm.machines.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

# The kernel's usual modules but for those that need a policy, where its config is not known.
_USUAL_LSM = "landlock,lockdown,yama"


def compose(
    kernel: Kernel,
    *,
    acceleration: Acceleration,
    directory: Path,
    cwd: Path,
    memory_mib: int,
    cpus: int,
    options: Sequence[str],
) -> list[str]:
    """Return the QEMU command of a machine; virtme-ng's OPTIONS say what it runs.

    The command's stdin and stdout are to be pipes. Files are made in DIRECTORY. Raises
    ComposeError.
    """
    program = virtme_run()
    # It looks for its other programs there: virtme-prep-kdir-mods, for build trees.
    path = f"{os.environ.get('PATH', os.defpath)}:{Path(program).parent}"
    command = [
        program,
        *("--kimg", str(kernel.image), "--mods", "auto" if kernel.modules else "none"),
        *("--name", host_name(kernel)),
        *("--memory", f"{memory_mib}M", "--cpus", str(cpus)),
        # Where virtiofsd is found but does not work, virtme-ng loses 3 s finding out.
        "--force-9p",
        *([] if acceleration.kvm else ["--disable-kvm"]),
        *options,
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
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(directory), "PATH": path},
    )
    if done.returncode or not done.stdout.strip():
        raise ComposeError(_explain(done.stderr))
    # virtme-ng would rather emulate than fail; what is reported as KVM shall be KVM.
    return [word.replace("accel=kvm:tcg", "accel=kvm") for word in shlex.split(done.stdout)]


def virtme_run() -> str:
    """Return the path of virtme-ng's program, or raise ComposeError."""
    # In a virtual environment that is not activated its programs are not on PATH.
    beside = Path(sys.executable).parent
    program = shutil.which("virtme-run", path=f"{beside}:{os.environ.get('PATH', os.defpath)}")
    if not program:
        raise ComposeError("virtme-ng is not installed: pip install 'pytest-bpflink[vm]'")
    return program


def host_name(kernel: Kernel) -> str:
    """Return a guest's name: never this host's, which plugins would take for the same machine."""
    return f"bpflink-{re.sub('[^a-z0-9]+', '-', kernel.id.lower())}".rstrip("-")


def kernel_options(kernel: Kernel) -> Iterator[str]:
    """Yield what every guest's kernel is told."""
    yield "oops=panic"
    yield "panic=-1"
    # Warnings and worse; virtme-ng's own choice shows nothing but a panic.
    yield "loglevel=5"
    modules = kernel.config.get("CONFIG_LSM", _USUAL_LSM)
    yield f"lsm={modules}" if "bpf" in modules.split(",") else f"lsm={modules},bpf"


def redirected(command: list[str], *, console: Path, errors: Path) -> list[str]:
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


def _explain(errors: str) -> str:
    """Return what virtme-ng said, less its traceback, and what to install."""
    last = next(iter(errors.strip().splitlines()[-1:]), "it said nothing")
    hints = {
        "cannot find qemu": f"QEMU is not installed: apt-get install {qemu.package()}",
        "busybox": "apt-get install busybox-static",
        "'file'": "apt-get install file",
    }
    advice = [hint for sign, hint in hints.items() if sign in last]
    return "; ".join([f"virtme-ng could not compose a guest: {last}", *advice])
