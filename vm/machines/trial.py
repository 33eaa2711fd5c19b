"""A guest by which KVM is tried: a kernel, and one program that says that it runs.

A plain guest would prove no more, and starts udev and dozens of other programs first. Where KVM is
slow, since the host is itself a guest, those took half a minute.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm import guest
from pytest_bpflink.vm.image.cpio import Archive
from pytest_bpflink.vm.machines import boot_image, plain, virtme
from pytest_bpflink.vm.machines.machine import Machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.acceleration import Acceleration

_SCRIPT = guest.DIRECTORY / "trial.sh"
_INIT = Path("/trial.sh")

# A kernel under KVM is up in a second. One that hangs says nothing for ever, and one on a slow host
# tells all the while what it does; under emulation beneath KVM it was up after 3 s.
_SILENCE = 20.0
_DEADLINE = 120.0


class TrialMachine(Machine):
    """A machine that boots KERNEL up to its first program; no Python ever runs there."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        acceleration: Acceleration,
        directory: Path,
        append: Sequence[str] = (),
    ) -> None:
        super().__init__(
            kernel,
            acceleration=acceleration,
            directory=directory,
            cwd=Path("/"),
            environment={},
            append=append,
        )

    def start(self) -> None:
        """Start QEMU and return; the guest boots meanwhile. As `Machine.start`."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = self._compose()
        self._empty_console()
        self._launch(command)

    def wait_ready(self, timeout: float = _DEADLINE) -> None:
        """Return when the kernel runs a program. As `Machine.wait_ready`.

        A guest whose console is silent for long is given up sooner.
        """
        self._await(plain.READY, timeout, silence=_SILENCE)

    def _compose(self) -> list[str]:
        initramfs, image = self.directory / "initramfs", self.directory / "vmlinux"
        command = virtme.compose(
            self.kernel,
            acceleration=self.acceleration,
            directory=self.directory,
            cwd=self.directory,
            memory_mib=self._memory_mib,
            cpus=self._cpus,
            # virtme-ng makes the virtio ports only if the guest has something to run.
            options=["--script-sh", "true", "--save-initramfs", str(initramfs)],
            modules=True,
        )
        # A kernel reads archives that follow one another.
        with initramfs.open("ab") as file, Archive(file) as archive:
            archive.add(_INIT, _SCRIPT.read_bytes(), mode=0o755)
        # As our own guests, which spares the kernel unpacking itself.
        command[command.index("-kernel") + 1] = str(boot_image.find(self.kernel, image))
        # By its messages the kernel shows that it goes on.
        own = ("loglevel=7", f"rdinit={_INIT}")
        parameters = [*virtme.consoles(command), *virtme.kernel_options(self.kernel), *own]
        command[command.index("-append") + 1] = " ".join([*parameters, *self._append])
        return virtme.redirected(command, errors=self.directory / "stderr.log")
