"""Runs virtme-ng, as a program, to compose a machine's QEMU command.

Knows its path, options and errors, and the kernel parameters of every guest. `plain` and
`guest_image` know what a guest runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.image import guest_image
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.kernels import module_index
from pytest_bpflink.vm.kernels.kernel import KernelError
from pytest_bpflink.vm.machines import qemu
from pytest_bpflink.vm.machines.errors import ComposeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

# If the kernel's config is unknown: its usual security modules, less those that need a policy.
_USUAL_LSM = "landlock,lockdown,yama"

# The kernel parameter with the directory of the modules, in quotes if that has a space.
_MODULES = r'"virtme_link_mods=[^"]*"|(?<!")virtme_link_mods=\S*'

_LONGEST_NAME = 63  # of a host: of 64 characters (__NEW_UTS_LEN) DNS takes one less
_DIGITS = 4  # at the end of a longer one that was cut, so that two stay two

# The file that `console_descriptor` names.
CONSOLE = Path("/dev/fdset/1")


def compose(
    kernel: Kernel,
    *,
    acceleration: Acceleration,
    directory: Path,
    cwd: Path,
    memory_mib: int,
    cpus: int,
    options: Sequence[str],
    modules: bool,
) -> list[str]:
    """Return the QEMU command of a machine; virtme-ng's OPTIONS say what it runs.

    With MODULES its init loads the kernel's modules, which have an index. Start the command with
    pipes as stdin and stdout. Files are made in DIRECTORY. Raises ComposeError.
    """
    program = virtme_run()
    here = kernel.module_directory if modules else None
    image = _beside_modules(kernel, here, directory / "kernel") if here else kernel.image
    command = [
        program,
        *("--kimg", str(image), "--mods", "auto" if here else "none"),
        *("--name", host_name(kernel)),
        *("--memory", f"{memory_mib}M", "--cpus", str(cpus)),
        # virtme-ng would wait 3 s for a virtiofsd that is installed but does not work.
        "--force-9p",
        # A kernel without modules has none otherwise, and --save-initramfs is refused.
        "--force-initramfs",
        *([] if acceleration.kvm else ["--disable-kvm"]),
        *options,
        *("--dry-run", "--show-command"),
    ]
    # virtme-run makes virtio ports only if it has standard streams, of whatever kind.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | {"TMPDIR": str(directory)},
    )
    if done.returncode or not done.stdout.strip():
        raise ComposeError(_explain(done.stderr))
    # With accel=kvm:tcg QEMU would emulate where KVM fails; a guest reported as KVM must use it.
    words = [word.replace("accel=kvm:tcg", "accel=kvm") for word in shlex.split(done.stdout)]
    return [re.sub(_MODULES, lambda _: f'"virtme_link_mods={here}"', word) for word in words]


def _beside_modules(kernel: Kernel, modules: Path, tree: Path) -> Path:
    """Return a link to the image in TREE, where virtme-ng finds the modules for its initramfs.

    They are unpacked, since virtme-ng 1.42 has a shell unpack .zst, without quoting their paths.
    """
    copies = {}
    (tree / "copies").mkdir(parents=True)
    try:
        for module in guest_image.needed_modules(modules):
            copy = tree / "copies" / f"{module.name.partition('.ko')[0]}.ko"
            copy.write_bytes(guest_image.unpacked(module))
            copies[copy.name] = copy
        module_index.make_tree(tree, kernel.release, copies)
    except (ImageError, KernelError) as error:
        raise ComposeError(str(error)) from None
    image = tree / "vmlinuz"
    image.symlink_to(kernel.image)
    return image


def virtme_run() -> str:
    """Return the path of virtme-ng's program, or raise ComposeError."""
    # In a virtual environment that is not activated its programs are not on PATH.
    beside = Path(sys.executable).parent
    program = shutil.which("virtme-run", path=f"{beside}:{os.environ.get('PATH', os.defpath)}")
    if not program:
        raise ComposeError("virtme-ng is not installed: pip install 'pytest-bpflink[vm]'")
    return program


def host_name(kernel: Kernel) -> str:
    """Return a guest's host name; with the host's, plugins would take both for one machine."""
    name = f"bpflink-{re.sub('[^a-z0-9]+', '-', kernel.id.lower())}".rstrip("-")
    if len(name) <= _LONGEST_NAME:
        return name
    ends = hashlib.sha256(kernel.id.encode()).hexdigest()[:_DIGITS]
    return f"{name[: _LONGEST_NAME - _DIGITS].rstrip('-')}-{ends}"


def kernel_options(kernel: Kernel) -> Iterator[str]:
    """Yield the kernel parameters of every guest."""
    yield "oops=panic"
    yield "panic=-1"
    # Warnings and worse; virtme-ng's default shows panics only.
    yield "loglevel=5"
    modules = kernel.config.get("CONFIG_LSM", _USUAL_LSM)
    yield f"lsm={modules}" if "bpf" in modules.split(",") else f"lsm={modules},bpf"


def consoles(command: Sequence[str]) -> Iterator[str]:
    """Yield those kernel parameters of a composed COMMAND that name the machine's consoles."""
    for word in shlex.split(command[command.index("-append") + 1]):
        if word.startswith(("console=", "earlyprintk=")):
            yield word


def redirected(command: list[str], *, errors: Path) -> list[str]:
    """Return COMMAND with the guest's console sent to `CONSOLE`, and its errors to a file.

    virtme-ng discards the console, and lets the errors overwrite QEMU's standard error. ERRORS also
    gets the guest's /dev/stdout, which would garble the channel of the worker's port.
    """
    files = {"console": CONSOLE, "stderr": errors, "dev_stdout": errors, "dev_stderr": errors}
    result = []
    for argument in command:
        chardev = re.fullmatch(r"file,id=(\w+),path=(.*)", argument)
        if chardev and chardev[1] in files:
            path = str(files[chardev[1]]).replace(",", ",,")
            result.append(f"file,id={chardev[1]},path={path},append=on")
        elif chardev:
            # virtme-ng 1.42 does not double the commas in the path of the file for the status.
            result.append(f"file,id={chardev[1]},path={chardev[2].replace(',', ',,')}")
        else:
            result.append(argument)
    return result


def console_descriptor(descriptor: int) -> list[str]:
    """Return the options by which QEMU takes a descriptor, which it inherits, for `CONSOLE`."""
    return ["-add-fd", f"fd={descriptor},set={CONSOLE.name}"]


def _explain(errors: str) -> str:
    """Return the last line of virtme-ng's errors, and what to install."""
    last = next(iter(errors.strip().splitlines()[-1:]), "it said nothing")
    hints = {
        "cannot find qemu": f"QEMU is not installed: apt-get install {qemu.package()}",
        "busybox": "apt-get install busybox-static",
        "'file'": "apt-get install file",
        "'strings'": "apt-get install binutils",
    }
    advice = [hint for sign, hint in hints.items() if sign in last]
    return "; ".join([f"virtme-ng could not compose a guest: {last}", *advice])
