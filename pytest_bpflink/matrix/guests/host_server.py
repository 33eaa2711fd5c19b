"""The program that `hosts` runs on another host: it starts guests there.

Knows machines and one execnet channel. Each request is (number, what, arguments), each answer
(number, None or the sentence of an error, value). A message that is a string is a line for the
controller's terminal. When the connection ends, the program ends all of its guests.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.building import compilation
from pytest_bpflink.building.recipe import CFLAGS
from pytest_bpflink.matrix.guests.virtual_machines import GuestOptions, VirtualMachines
from pytest_bpflink.vm.cache import cache_root
from pytest_bpflink.vm.kernels import KernelError
from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.scratch import Scratch, sweep

if TYPE_CHECKING:
    from execnet import Channel

    from pytest_bpflink.vm.kernels import Kernel
    from pytest_bpflink.vm.machines.machine import Machine


def serve(channel: Channel) -> None:
    """Answer requests until the connection ends, and end all guests then."""
    sweep()
    with Scratch() as scratch:
        server = _Server(channel, scratch.path)
        try:
            for request in channel:
                server.take(*request)
        finally:
            server.close()


class _Server:
    def __init__(self, channel: Channel, directory: Path) -> None:
        self._channel = channel
        self._directory = directory
        self._place: VirtualMachines
        self._kernels: dict[str, Kernel] = {}
        self._machines: dict[int, Machine] = {}
        self._threads = ThreadPoolExecutor(64)

    def take(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        """Answer a request before the next is taken; only `wait_ready` is answered by a thread."""
        if what == "wait_ready":
            self._threads.submit(self._answer, number, what, arguments)
        else:
            self._answer(number, what, arguments)

    def close(self) -> None:
        for machine in self._machines.values():
            machine.close()
        self._threads.shutdown()

    def _answer(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        value, error = None, None
        try:
            value = getattr(self, f"do_{what}")(**arguments)
        except (KernelError, MachineError, OSError) as raised:
            error = str(raised)
        self._channel.send((number, error, value))

    def do_begin(self, paths: list[str], cwd: str, options: dict[str, Any]) -> dict[str, Any]:
        """Take the options of all guests; return the free cores, and the paths that are missing."""
        chosen = GuestOptions(**options)
        os.environ[CFLAGS] = chosen.cflags
        self._place = VirtualMachines(chosen, cwd=Path(cwd), say=self._channel.send)
        cores = os.cpu_count() or 1
        return {
            "free_cores": max(0.0, cores - os.getloadavg()[0]),
            "missing": [path for path in paths if not os.path.exists(path)],
        }

    def do_find(self, spec: str) -> dict[str, Any]:
        """Find a kernel, and say how it will run."""
        found = self._kernels[spec] = self._place.find(spec, progress=lambda _: None)
        acceleration = self._place.acceleration(found)
        return {
            "id": found.id,
            "release": found.release,
            "version": found.version,
            "image": str(found.image),
            "kvm": acceleration.kvm,
            "reason": acceleration.reason,
        }

    def do_compile(self, sources: list[str]) -> None:
        """Compile BPF programs for the guests of this host."""
        paths = [*map(Path, sources)]
        compilation.prepare(paths, before_each=lambda _: None)
        self._place.compile(paths)

    def do_start(self, machine: int, spec: str, environment: dict[str, str]) -> str:
        """Start a guest, and return the command that reaches its Python."""
        # ENVIRONMENT is the controller's. The guest sees the files of this host, so it needs the
        # variables of `compilation.prepare` and the cache of this process.
        own = {name: value for name, value in os.environ.items() if name.startswith("BPFLINK_")}
        started = self._machines[machine] = self._place.machine(
            self._kernels[spec],
            directory=self._directory / str(machine),
            console_log=None,
            environment={**environment, **own, "BPFLINK_CACHE": str(cache_root())},
        )
        started.start()
        return started.gateway_python

    def do_wait_ready(self, machine: int, timeout: float) -> None:
        self._machines[machine].wait_ready(timeout)

    def do_kill(self, machine: int) -> None:
        self._machines[machine].kill()

    def do_console(self, machine: int) -> bytes:
        return self._machines[machine].console_log.read_bytes()

    def do_console_tail(self, machine: int, lines: int) -> str:
        return self._machines[machine].console_tail(lines=lines)

    def do_errors_tail(self, machine: int, lines: int) -> str:
        return self._machines[machine].errors_tail(lines=lines)

    def do_close(self, machine: int) -> None:
        self._machines.pop(machine).close()
