"""Seeing that a program ran: witnesses trigger it, and read the variables that it changes."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink import Object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink import Cgroup

_SYS_ENTER = Path(__file__).parents[1] / "progs/sys_enter.bpf.c"
_DISCARD_PORT = 9

# A program may miss one: since 6.13 the tracepoints of system calls can be preempted, and while
# another process is preempted within the program, the kernel's guard against recursion skips the
# program on the same processor. Yielding lets that process go on.
_SYSTEM_CALLS = 50


class SyscallWitness:
    """`sys_enter.bpf.c`: says whether one of its programs runs at this process's system calls."""

    def __init__(self, loaded: Object) -> None:
        self.object = loaded
        self._last = 0

    @classmethod
    @contextlib.contextmanager
    def of(cls, program: str) -> Iterator[SyscallWitness]:
        """Load one of the programs: a kernel without BTF refuses `pin_tp_btf`."""
        with Object.open(_SYS_ENTER) as opened:
            for each in opened.programs.values():
                each.set_autoload(each.name == program)
            opened.rodata.update(cls.rodata())
            yield cls(opened.load())

    @staticmethod
    def rodata() -> dict[str, int]:
        """Return the values by which the programs recognise this process."""
        namespace = os.stat("/proc/self/ns/pid")
        return {
            "target_pid": os.getpid(),
            "pidns_dev": _kernel_device(namespace.st_dev),
            "pidns_ino": namespace.st_ino,
        }

    def runs(self) -> bool:
        """Make system calls and say whether a program saw any of them."""
        self._last += 1
        self.object.bss["in"] = self._last
        return any(self._sees_system_call() for _ in range(_SYSTEM_CALLS))

    def stopped(self) -> bool:
        """Make system calls and say whether no program saw any of them."""
        return not self.runs()

    def _sees_system_call(self) -> bool:
        os.sched_yield()
        return bool(self.object.bss["out"] == self._last)


class PacketWitness:
    """`cgroup_egress.bpf.c`: counts what its two programs see of one datagram."""

    def __init__(self, loaded: Object) -> None:
        self.object = loaded

    def of_datagram_from(self, cgroup: Cgroup) -> tuple[int, int]:
        """Send a datagram from inside a cgroup; return how often `egress` and `egress_alt` ran."""
        with cgroup.entered(), datagram_socket() as sender:
            return self.of_datagram_through(sender)

    def of_datagram_through(self, sender: socket.socket) -> tuple[int, int]:
        """The same through a socket, which belongs to the cgroup that it was made in."""
        before = self._counts()
        sender.sendto(b"bpflink", ("127.0.0.1", _DISCARD_PORT))
        after = self._counts()
        return after[0] - before[0], after[1] - before[1]

    def _counts(self) -> tuple[int, int]:
        return self.object.bss["calls"], self.object.bss["alt_calls"]


def datagram_socket() -> socket.socket:
    """Make a UDP socket; loopback hands its packets over before `sendto` returns."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _kernel_device(device: int) -> int:
    """Return a dev_t as the kernel keeps it: a major number of 12 bits, a minor number of 20."""
    return os.major(device) << 20 | os.minor(device)
