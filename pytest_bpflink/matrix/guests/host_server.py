"""What runs on another host for `hosts`: it starts guests there, and ends them with its connection.

Knows machines and one execnet channel. Each request is (number, what, arguments), each answer
(number, None or the sentence of an error, value).
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink.building import compilation
from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.kernels import KernelError
from pytest_bpflink.vm.machines import kvm
from pytest_bpflink.vm.machines.errors import MachineError
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.scratch import Scratch, sweep

if TYPE_CHECKING:
    from execnet import Channel

    from pytest_bpflink.vm.kernels import Kernel


def serve(channel: Channel) -> None:
    """Do what is asked until the connection ends; then no guest is left."""
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
        self._kernels: dict[str, Kernel] = {}
        self._machines: dict[int, Machine] = {}
        self._threads = ThreadPoolExecutor(64)

    def take(self, number: int, what: str, arguments: dict[str, Any]) -> None:
        """Answer a request, in this thread unless it takes long."""
        # QEMU dies with the thread that starts it; waiting for it must keep nobody else.
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

    def do_describe(self, paths: list[str]) -> dict[str, Any]:
        """Say how busy this host is, and which of the paths are not there."""
        cores = os.cpu_count() or 1
        return {
            "free_cores": max(0.0, cores - os.getloadavg()[0]),
            "missing": [path for path in paths if not os.path.exists(path)],
            "python": sys.version,
        }

    def do_find(self, spec: str) -> dict[str, Any]:
        """Find a kernel, and say how it will run."""
        found = self._kernels[spec] = kernels.find(spec)
        acceleration = kvm.detect(found)
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
        compilation.prepare(map(Path, sources), before_each=lambda _: None)

    def do_start(self, machine: int, spec: str, environment: dict[str, str], **options: Any) -> str:
        """Start a guest, and return the command that reaches its Python."""
        found = self._kernels[spec]
        # What `compile.prepare` leaves for guests is this host's.
        own = {name: value for name, value in os.environ.items() if name.startswith("BPFLINK_")}
        started = self._machines[machine] = Machine(
            found,
            acceleration=kvm.detect(found),
            directory=self._directory / str(machine),
            cwd=Path(options.pop("cwd")),
            environment={**environment, **own},
            **options,
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

    def do_close(self, machine: int) -> None:
        self._machines.pop(machine).close()
