"""Cold guests: booted from our own image at each start, and never saved.

Knows the order of the steps: image, boot, letter, worker. `guest_image`, `blueprint`, `letter` and
`machine` do them.
"""

from __future__ import annotations

import os
import select
import shutil
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm.architectures import ALL
from pytest_bpflink.vm.cache import cache_part
from pytest_bpflink.vm.image import guest_image, inventory
from pytest_bpflink.vm.image.inventory import ImageError, Inventory
from pytest_bpflink.vm.kernels.drivers import is_packed
from pytest_bpflink.vm.machines import boot_image, plain, virtme
from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.warm import blueprint, letter
from pytest_bpflink.vm.warm.blueprint import Blueprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_bpflink.vm.image.cpio import Archive
    from pytest_bpflink.vm.image.debian_root import Root
    from pytest_bpflink.vm.image.packed_root import PackedRoot
    from pytest_bpflink.vm.kernels import Kernel

# While a packed guest boots, its image is in its memory twice, beside kernel and Python.
_MIB_BESIDE_IMAGE = 192

# The line that the agent prints when everything is imported (BOOTED in guest/agent.py).
BOOTED = b"bpflink: guest booted\n"


def _hush(text: str) -> None:
    del text


class ColdMachine(Machine):
    """A guest of our own: it boots an image that holds the host's Python, and has the host's root.

    If no image can be made of this Python or for this kernel, it is a plain guest, as `Machine`.
    A kernel without 9p gets a packed guest: the image holds what it needs of the host, and PARCEL
    returns what it gets beside, compressed (`parcel.compose`).
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        say: Callable[[str], None] = _hush,
        parcel: Callable[[Inventory, PackedRoot], bytes] | None = None,
        **options: Any,
    ) -> None:
        """As Machine; SAY is called with a sentence for each slow step and each fallback."""
        super().__init__(kernel, **options)
        self._say = say
        self._parcel = parcel
        self._packed: PackedRoot | None = None
        # The root of a guest of another architecture than this machine's.
        self._root: Root | None = None
        self._blueprint: Blueprint
        self._inventory: Inventory
        # The rest of the start, which `wait_ready` calls with its timeout.
        self._next: Callable[[float], None] = self._wait_booted

    def start(self) -> None:
        """Start QEMU and return; the guest comes up meanwhile. As `Machine.start`."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._empty_console()
        try:
            self._inventory = self._take_inventory()
            if self.kernel.is_foreign:
                self._be_foreign()
            elif is_packed(self.kernel):
                self._packed = self._take_packed_root()
            self._begin()
        except ImageError as error:
            if self.kernel.is_foreign:
                raise MachineError(str(error)) from None
            if is_packed(self.kernel):
                raise MachineError(f"no guest can be packed, which has no 9p: {error}") from None
            self._say(f"the guest is a plain one: {error}")
            self._next = super().wait_ready
            super().start()

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when the guest's Python is about to run. As `Machine.wait_ready`."""
        self._next(timeout)

    def _take_inventory(self, *, anew: bool = False) -> Inventory:
        worker, cache = self._worker, cache_part("guests")
        return inventory.take(
            worker.python, worker.environment, cache=cache, cwd=worker.cwd, anew=anew
        )

    def _take_packed_root(self) -> PackedRoot:
        from pytest_bpflink.vm.image import packed_root

        if self._worker.writable:
            raise MachineError(
                f"Linux {self.kernel.release} has no 9p: its guests can't write to"
                f" {self._worker.writable}"
            )
        packed = packed_root.take(self._inventory, cache=cache_part("guests"))
        needed = 2 * (packed.size >> 20) + _MIB_BESIDE_IMAGE
        self._memory_mib = max(self._memory_mib, needed)
        return packed

    def _be_foreign(self) -> None:
        """Find the root of a guest of another architecture. Raises ImageError."""
        from pytest_bpflink.vm.image import debian_root
        from pytest_bpflink.vm.warm import foreign

        self._root = debian_root.find(ALL[self.kernel.arch], self._inventory, self._say)
        self._worker = foreign.of_root(self._worker)

    def _begin(self) -> None:
        self._blueprint = self._draw()
        self._boot()

    def _draw(self) -> Blueprint:
        """Have virtme-ng compose the machine, but for one of another architecture."""
        if self._root:
            from pytest_bpflink.vm.warm import foreign

            return foreign.draw(
                self.kernel, self._root, memory_mib=self._memory_mib, cpus=self._cpus
            )
        self._boot_files.mkdir(exist_ok=True)
        return Blueprint.draw(
            self.kernel,
            acceleration=self.acceleration,
            directory=self._boot_files,
            memory_mib=self._memory_mib,
            cpus=self._cpus,
            packed=self._packed is not None,
        )

    def _boot(self, options: Iterable[str] = (), pass_fds: Sequence[int] = ()) -> None:
        """Start a QEMU that boots the image; OPTIONS are added to its command."""
        drawn, files = self._blueprint, self._boot_files
        files.mkdir(exist_ok=True)
        initramfs = files / "initramfs"
        modules = self.kernel.module_directory
        try:
            self._build(initramfs, modules)
        except (guest_image.DamagedError, FileNotFoundError):
            self._inventory = self._take_inventory(anew=True)
            if self._packed:
                self._packed = self._take_packed_root()
            self._build(initramfs, modules)
        image = boot_image.find(self.kernel, files / "vmlinux")
        booting = drawn.booting(
            image=image, initramfs=initramfs, parameters=self._kernel_parameters
        )
        self._run([*drawn.command, *booting, *options], pass_fds)

    def _build(self, initramfs: Path, modules: Path | None) -> None:
        pack = partial(self._pack, self._packed, modules) if self._packed else None
        guest_image.build(
            initramfs,
            self._inventory,
            modules=modules,
            architecture=ALL.get(self.kernel.arch),
            root=self._root,
            add_root=pack,
        )

    def _pack(self, packed: PackedRoot, modules: Path | None, archive: Archive) -> None:
        from pytest_bpflink.vm.image import packed_root

        packed.add_to(archive)
        if modules:
            packed_root.add_modules(archive, modules, release=self.kernel.release)
        if self.kernel.config_file:
            place = Path(f"/boot/config-{self.kernel.release}")
            archive.add(place, self.kernel.config_file.read_bytes())

    def _run(self, command: Sequence[str], pass_fds: Sequence[int]) -> None:
        errors = self.directory / "stderr.log"
        command = [*command, *self._share()]
        self._launch(
            virtme.redirected(command, errors=errors),
            pass_fds=pass_fds,
        )

    def _share(self) -> list[str]:
        """Return the options that share the writable directory, or else an empty one."""
        if self._packed:
            return []
        if self._worker.writable:
            return blueprint.share(self._worker.writable, writable=True)
        nothing = self.directory / "nothing"
        nothing.mkdir(exist_ok=True)
        return blueprint.share(nothing, writable=False)

    def _wait_booted(self, timeout: float) -> None:
        self._await_agent(timeout)
        self._hand_over(timeout)

    def _await_agent(self, timeout: float) -> None:
        self._await(BOOTED, timeout)
        # QEMU has read these files, which are larger than all others of a guest.
        shutil.rmtree(self._boot_files, ignore_errors=True)

    def _hand_over(self, timeout: float) -> None:
        """Send the agent the letter, and wait for the guest's Python."""
        if self._packed:
            self._hand_over_packed(self._packed, timeout)
            return
        modules = self.kernel.module_directory
        contents = letter.compose(
            self._worker,
            host_name=virtme.host_name(self.kernel),
            modules=str(modules) if modules else None,
            config=str(self.kernel.config_file) if self.kernel.config_file else None,
            plugin=self._plugin,
            path=self._inventory.path,
            visible=plain.needed_paths(self.kernel, self._worker.cwd),
            host=self._host,
        )
        while contents:
            try:
                contents = contents[os.write(self._to_guest, contents) :]
            except BrokenPipeError:
                break  # the guest is dead: wait_ready raises BootFailed
        super().wait_ready(timeout)

    def _hand_over_packed(self, packed: PackedRoot, timeout: float) -> None:
        """As `_hand_over`, with the parcel after the letter."""
        parcel = self._parcel(self._inventory, packed) if self._parcel else b""
        contents = letter.compose(
            self._worker,
            host_name=virtme.host_name(self.kernel),
            modules=None,
            config=None,
            plugin=self._plugin,
            path=self._inventory.path,
            visible=(),
            parcel=len(parcel),
        )
        self._write(contents + parcel, timeout)
        super().wait_ready(timeout)

    def _write(self, contents: bytes, timeout: float) -> None:
        """Send what the pipe has no room for; a guest that does not read it fails to boot."""
        deadline = time.monotonic() + self._scaled(timeout)
        rest = memoryview(contents)
        poll = select.poll()
        poll.register(self._to_guest, select.POLLOUT)
        os.set_blocking(self._to_guest, False)
        while rest:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._end_qemu()
                raise self._failed("did not take the files that it was sent", timed_out=True)
            try:
                rest = rest[os.write(self._to_guest, rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                break  # the guest is dead: wait_ready raises BootFailed
        os.set_blocking(self._to_guest, True)

    @property
    def _host(self) -> dict[str, Any] | None:
        """What a guest of another architecture shows of the host."""
        if self._root is None:
            return None
        from pytest_bpflink.vm.warm import foreign

        return foreign.of_host(self.kernel, self._worker, self._inventory, self._root)

    @property
    def _plugin(self) -> str:
        """The letter's digest of the plugin; empty for a session, or if Python finds another."""
        known = self._inventory
        if self._worker.session or not known.has_this_plugin:
            return ""
        return known.plugin_digest()

    @property
    def _kernel_parameters(self) -> list[str]:
        return blueprint.kernel_parameters(
            self.kernel, acceleration=self.acceleration, append=self._append
        )

    @property
    def _boot_files(self) -> Path:
        return self.directory / "boot"
