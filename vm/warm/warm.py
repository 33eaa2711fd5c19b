"""Warm guests: restored from a save; if there is none, it is made first.

Knows the order of the steps (boot, save, restore) and the fallbacks if one fails. `cold` boots,
`blueprint` has the QEMU command, `saves` keeps the files.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm import programs
from pytest_bpflink.vm.cache import cache_part
from pytest_bpflink.vm.machines import virtme
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.warm import blueprint, kept_blueprint, save_key
from pytest_bpflink.vm.warm.cold import ColdMachine
from pytest_bpflink.vm.warm.qmp import Monitor, MonitorError
from pytest_bpflink.vm.warm.saves import Save, SaveError, Saves

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.warm.blueprint import Blueprint

# Under KVM, as all timeouts here (`_scaled`); restoring takes 0.1 s.
_RESTORE_SECONDS = 10.0

# The first failure may be the host's: a save whose digests are right is kept. After the second
# failure it is made anew, and after the third the guest boots.
_KEEPING_FAILURES, _MOST_FAILURES = 1, 3

# Between two looks.
_LOCK_SECONDS = 0.1
_MIGRATION_SECONDS = 0.01

_MAPPING = {"capability": "x-ignore-shared", "state": True}


class WarmMachine(ColdMachine):
    """A guest of our own that is restored from a save; if there is none, it is made first.

    If it can't be saved, or restored from two saves, it is booted as a ColdMachine.
    """

    def __init__(self, kernel: Kernel, **options: Any) -> None:
        super().__init__(kernel, **options)
        self._saves = Saves(cache_part("guests"))
        self._key = ""
        self._monitor: Monitor
        # The lock and the directory of the save that is being made.
        self._saving = ExitStack()

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when the guest's Python is about to run. As `Machine.wait_ready`."""
        failures = 0
        while True:
            try:
                self._next(timeout)
            except _NotRestored as error:
                self._check_not_killed()
                failures += 1
                if failures > _KEEPING_FAILURES or not self._saves.is_whole(self._key):
                    self._discard_save()
                if failures == _MOST_FAILURES:
                    self._boot_instead(error)
                else:
                    self._begin()
            except SaveError as error:
                self._boot_instead(error)
            else:
                return

    def close(self) -> None:
        """End the guest and let go of its pipes; its logs stay in DIRECTORY."""
        super().close()
        self._saving.close()

    def _begin(self) -> None:
        parts = save_key.dependencies(
            self.kernel,
            self._inventory,
            acceleration=self.acceleration,
            cache=self._saves.root,
            packed=self._packed,
            root=self._root,
        )
        self._blueprint = self._find_or_draw(parts)
        self._key = save_key.digest(
            parts, machine=[*self._blueprint.machine, *self._kernel_parameters]
        )
        try:
            self._restore_or_save()
        except SaveError as error:
            self._boot_instead(error)

    def _find_or_draw(self, parts: Mapping[str, Any]) -> Blueprint:
        """Return the blueprint of a machine that depends on PARTS."""
        if self._root:
            return self._draw()
        name = virtme.host_name(self.kernel)
        digest = save_key.digest(parts, memory=self._memory_mib, cpus=self._cpus, name=name)
        file = self._saves.root / f"machine-{digest}.json"
        found = kept_blueprint.find(file)
        if found is None:
            found = self._draw()
            kept_blueprint.keep(found, file)
        return found

    def _restore_or_save(self) -> None:
        """Restore the guest, or boot it to be saved, or wait for another run that is saving it."""
        while save := self._saves.find(self._key):
            try:
                state = save.state.open("rb")
            except FileNotFoundError:  # another run has just removed the save
                continue
            with state:
                self._restore(save, state.fileno())
            return
        from filelock import Timeout

        try:
            self._saving.enter_context(self._saves.lock(self._key).acquire(blocking=False))
        except Timeout:
            self._next = self._wait_for_another_run
            return
        except OSError as error:
            raise SaveError(f"{self._saves.root} can't be written: {error.strerror}") from None
        # Another run may have made the save and released the lock in between.
        if self._saves.find(self._key):
            self._saving.close()
            self._restore_or_save()
        else:
            self._boot_to_be_saved()

    def _boot_instead(self, why: Exception) -> None:
        self._saving.close()
        self._check_not_killed()
        self._say(f"the guest is booted, since it can't be restored: {why}")
        self._next = self._wait_booted
        self._boot()

    def _wait_for_another_run(self, timeout: float) -> None:
        deadline = time.monotonic() + self._scaled(timeout)
        while self._next == self._wait_for_another_run:
            self._check_not_killed()
            if time.monotonic() > deadline:
                raise SaveError("another run is saving this guest, and does not finish")
            time.sleep(_LOCK_SECONDS)
            self._restore_or_save()
        self._next(timeout)

    # Making a save.

    def _boot_to_be_saved(self) -> None:
        room = self._memory_mib << 20
        made = self._saving.enter_context(self._saves.making(self._key, room=room))
        self._say("saving a guest, which later ones are restored from")
        memory = blueprint.memory_file(made / "memory", mib=self._memory_mib, shared=True)
        self._next = partial(self._save_and_restore, made)
        with self._monitored() as theirs:
            self._boot([*memory, *blueprint.monitor(theirs)], pass_fds=[theirs])

    def _save_and_restore(self, made: Path, timeout: float) -> None:
        try:
            self._await_agent(timeout)
        except BootFailed:
            if self.returncode == -signal.SIGBUS:
                raise SaveError("QEMU could not write the guest's memory: SIGBUS") from None
            raise
        save = self._save(made)
        self._saving.close()
        # A save whose key is outdated is never looked for again.
        self._saves.prune()
        try:
            with save.state.open("rb") as state:
                self._restore(save, state.fileno())
        except FileNotFoundError:
            raise SaveError("another run removed the save at once") from None
        self._next(timeout)

    def _save(self, made: Path) -> Save:
        """Save the guest, which has booted, and end it."""
        mapped = True
        target = f"exec:cat > {shlex.quote(str(made / 'state'))}"
        try:
            try:
                self._monitor.execute("migrate-set-capabilities", capabilities=[_MAPPING])
            except MonitorError:
                mapped = False  # this QEMU writes the memory into the state, and reads it there
            self._monitor.execute("migrate", uri=target)
            self._await_migration()
        except MonitorError as error:
            raise SaveError(f"QEMU could not save it: {error}") from None
        self._end_qemu()
        if not mapped:
            (made / "memory").unlink()
        try:
            return self._saves.keep(self._key, made, mapped=mapped)
        except OSError as error:
            raise SaveError(f"it can't be written: {error}") from None

    def _await_migration(self) -> None:
        deadline = time.monotonic() + self._scaled(_RESTORE_SECONDS)
        while (said := self._monitor.execute("query-migrate")).get("status") != "completed":
            status = said.get("status")
            if status in {"failed", "cancelled"} or time.monotonic() > deadline:
                raise MonitorError(f"migrate: {said.get('error-desc') or status}")
            time.sleep(_MIGRATION_SECONDS)

    # Restoring one.

    def _restore(self, save: Save, state: int) -> None:
        """Start a QEMU that maps the memory and reads the state; `_resume` waits for it.

        STATE is a descriptor of the save's state.
        """
        if save.mapped:
            file = self._openable(save.memory)
            memory = blueprint.memory_file(file, mib=self._memory_mib, shared=False)
        else:
            self._say("the guest's memory is read, since this QEMU can't map what it saved")
            memory = blueprint.memory(mib=self._memory_mib)
        options = [*memory, "-incoming", "defer"]
        with self._monitored() as theirs:
            options.extend(blueprint.monitor(theirs))
            self._run([*self._blueprint.command, *options], pass_fds=[theirs, state])
            self._next = partial(self._resume, f"fd:{state}")
            # If QEMU is dead already, `_resume` finds out.
            with suppress(MonitorError):
                if save.mapped:
                    self._monitor.send("migrate-set-capabilities", capabilities=[_MAPPING])
                self._monitor.send("migrate-incoming", uri=f"file:{save.state}")

    def _openable(self, memory: Path) -> Path:
        """Return MEMORY, or a copy if it can't be written, as in a read-only cache.

        QEMU opens the file for writing, though it maps it copy-on-write (until 8.2, which has the
        option rom=off for this).
        """
        if os.access(memory, os.W_OK):
            return memory
        copy = self.directory / "memory"
        done = programs.run(["cp", "--sparse=always", "--reflink=auto", str(memory), str(copy)])
        if done.returncode:
            raise SaveError(f"its memory can't be copied: {done.stderr.strip()}")
        return copy

    def _resume(self, descriptor: str, timeout: float) -> None:
        del timeout  # meant for a boot
        try:
            try:
                self._monitor.settle()
            except MonitorError:
                # Before 8.2 QEMU takes no file by its name (file:); 11.1 takes none by fd:.
                self._monitor.execute("migrate-incoming", uri=descriptor)
            self._monitor.wait_for("RESUME")
            self._hand_over(_RESTORE_SECONDS)
        except (MonitorError, BootFailed) as error:
            raise _NotRestored(str(error)) from None

    def _discard_save(self) -> None:
        # If another run holds the lock, it is making this save anew; a cache may be read-only.
        with suppress(OSError), self._saves.lock(self._key).acquire(blocking=False):
            self._saves.discard(self._key)

    @contextmanager
    def _monitored(self) -> Iterator[int]:
        """Yield QEMU's end of a monitor's connection; `_monitor` has the other end."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._monitor = Monitor(ours)
            try:
                yield theirs.fileno()
            except BaseException:
                ours.close()
                raise
            # After the block: `_launch`, which it calls, first closes everything in `_undo`.
            self._undo.callback(ours.close)


class _NotRestored(Exception):  # noqa: N818 (reads as what happened)
    """A save was found, but no guest could be restored from it."""
