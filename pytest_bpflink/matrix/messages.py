"""The messages of the controller and its workers beside xdist's own.

An `Assignment` goes to each worker before it starts; `ItemFacts` come back for each item that the
worker collected. execnet carries plain values only, so both classes convert themselves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pytest_bpflink.matrix.plain_values import DamagedError, dumps, loads, plain
from pytest_bpflink.session.kernel import MatrixKernel

if TYPE_CHECKING:
    import pytest
    from execnet import Channel
    from xdist.workermanage import WorkerController

#: In the `workeroutput` of a worker that ended since a test left the worker or the kernel changed:
#: the test's node id, and what the test has done.
ENDED_AFTER: Final = "bpflink_ended_after"

#: In the `workeroutput` of a worker that an exception ended: the exception, and its place.
INTERRUPTED: Final = "bpflink_interrupted"

#: The status with which a worker exits when a test has closed the worker's connection; EX_PROTOCOL.
UNHEARD: Final = 76

_KEY: Final = "bpflink"


class FreshItem(NamedTuple):
    """An item that runs in a guest of its own.

    `argument` makes pytest collect this item alone. If it is None, the worker collects all items,
    as every worker does, and keeps this one.
    """

    nodeid: str
    argument: str | None
    location: tuple[str, int | None, str]


class ItemFacts(NamedTuple):
    """The facts that a worker reports of an item that it collected.

    `test` is the node id without the kernel. `fresh` is given if the item runs in a guest of its
    own. `bug` is the source that the item's mark `kernel_bug` names.
    """

    test: str
    group: str | None
    parametrized: bool
    fresh: FreshItem | None
    bug: str | None

    @property
    def plain(self) -> tuple[Any, ...]:
        """These facts as execnet can carry them."""
        return tuple(self._replace(fresh=self.fresh and tuple(self.fresh)))  # type: ignore[arg-type]


def say(channel: Channel, subject: str, content: Any) -> None:
    """Send a worker's message, for `said` to read."""
    channel.send(dumps((subject, plain(content))))


def said(message: object) -> tuple[str, Any]:
    """Return the subject of a worker's message, and its content.

    The content of "items" is the ItemFacts of each node id, of "compile" the number of the question
    and a Request, of "stack", "printed", "uncollected" and "refused" a text. Raises DamagedError
    for any other message.
    """
    match loads(message) if isinstance(message, bytes) else None:
        case ("stack" | "printed" | "uncollected" | "refused" as subject, str(text)):
            return subject, text
        case ("items", dict(items)):
            return "items", {_text(nodeid): _facts(plain) for nodeid, plain in items.items()}
        case ("compile", (int(number), plain)):
            from pytest_bpflink.building.asking import Request

            try:
                return "compile", (number, Request.read(plain))
            except ValueError as error:
                raise DamagedError(str(error)) from None
        case _:
            raise DamagedError("it is on no subject")


def _facts(plain: object) -> ItemFacts:
    match plain:
        case (
            str(test),
            (str() | None) as group,
            bool(parametrized),
            fresh,
            (str() | None) as bug,
        ):
            return ItemFacts(test, group, parametrized, _fresh(fresh), bug)
        case _:
            raise DamagedError("it has no facts of an item")


def _fresh(plain: object) -> FreshItem | None:
    match plain:
        case None:
            return None
        case (
            str(nodeid),
            (str() | None) as argument,
            (str(path), (int() | None) as line, str(name)),
        ):
            return FreshItem(nodeid, argument, (path, line, name))
        case _:
            raise DamagedError("it has no item for a guest of its own")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise DamagedError(f"{value!r} is no node id")
    return value


@dataclass(frozen=True)
class Assignment:
    """The controller's message to a worker before it starts.

    `kernels` are all kernels of the run, `kernel` is the worker's. `stand_in` is the reason why the
    kernel can't be used; a worker with a reason is a stand-in, which runs no item and reports each
    as an error. `item` is the only item that the worker is for; None for a worker that is dealt
    items. `channel` carries the worker's `ItemFacts`, the lines that tests print, and stacks.
    `relay` leads to a port on the host, if a plugin there listens for workers (`port_relay`).
    """

    kernels: tuple[MatrixKernel, ...]
    kernel: MatrixKernel
    libbpf: str
    stand_in: str | None
    item: FreshItem | None
    channel: Channel
    relay: Channel | None = None

    def give(self, node: WorkerController) -> None:
        """Add this to the input of a worker that has not started yet."""
        node.workerinput[_KEY] = {
            "kernels": [asdict(kernel) for kernel in self.kernels],
            "kernel": asdict(self.kernel),
            "libbpf": self.libbpf,
            "stand_in": self.stand_in,
            "item": self.item and tuple(self.item),
            "channel": self.channel,
            "relay": self.relay,
        }

    @classmethod
    def received(cls, config: pytest.Config) -> Assignment | None:
        """Return the assignment of this worker; None if this process is no worker of the matrix."""
        plain: dict[str, Any] | None = getattr(config, "workerinput", {}).get(_KEY)
        if plain is None:
            return None
        return cls(
            kernels=tuple(MatrixKernel(**kernel) for kernel in plain["kernels"]),
            kernel=MatrixKernel(**plain["kernel"]),
            libbpf=plain["libbpf"],
            stand_in=plain["stand_in"],
            item=FreshItem(*plain["item"]) if plain["item"] else None,
            channel=plain["channel"],
            relay=plain["relay"],
        )
