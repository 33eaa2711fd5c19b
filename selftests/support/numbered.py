"""Programs that write down their numbers, to see in which order the programs of a hook ran."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_bpflink import Object
from pytest_bpflink.selftests.support.witness import datagram_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Link, Program

_SOURCE = Path(__file__).parents[1] / "progs" / "order.bpf.c"


class Hook:
    """A hook that takes several links, and a function that makes their programs run."""

    def __init__(
        self,
        loaded: Object,
        name: str,
        attach: Callable[..., Link],
        trigger: Callable[[], object],
    ) -> None:
        self._object = loaded
        self._name = name
        self._attach = attach
        self._trigger = trigger

    def program(self, number: int) -> Program:
        """Return the program that writes down this number."""
        return self._object.program(f"{self._name}_{number}")

    def attach(self, number: int, **options: Any) -> Link:
        """Attach a program by its number."""
        return self._attach(self.program(number), **options)

    def order(self) -> str:
        """Trigger the hook, and return the numbers of the programs in the order they ran."""
        self._object.bss["sequence"] = 0
        self._trigger()
        return str(self._object.bss["sequence"] or "")


@contextlib.contextmanager
def numbered(name: str) -> Iterator[Object]:
    """Load the four programs of a kind: `cgroup`, `tcx_ingress`, `netfilter`."""
    with Object.open(_SOURCE) as loaded:
        for program in loaded.programs.values():
            program.set_autoload(program.name.startswith(f"{name}_"))
        yield loaded.load()


def datagram_from(cgroup: Cgroup) -> None:
    """Send a datagram from inside a cgroup."""
    with cgroup.entered(), datagram_socket() as sender:
        sender.sendto(b"bpflink", ("127.0.0.1", 9))
