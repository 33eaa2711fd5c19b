"""The names of xdist (3.6 to 3.8) and execnet, hooks aside, that a worker uses.

xdist's `WorkerInteractor` runs a worker's items and sends their events. xdist registers it as a
plugin without a name.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import pytest

    Send = Callable[[object], None]
    SendEvent = Callable[..., None]

#: The top-level packages of xdist and execnet.
PACKAGES = ("xdist", "execnet")

#: The modules that a worker's process imports before it runs its first item.
MODULES = (
    "execnet.gateway",
    "execnet.gateway_base",
    "xdist.looponfail",
    "xdist.newhooks",
    "xdist.plugin",
    "xdist.remote",
)

#: The modules among them that are plugins of pytest.
PLUGINS = ("xdist.looponfail", "xdist.plugin")


def send_events_by(
    config: pytest.Config, wrap: Callable[[Send, Callable[[], bool]], SendEvent]
) -> None:
    """Have this worker send its events by another function.

    WRAP is given the function that sends a message, and one that says whether the worker already
    has its next item queued.
    """
    worker = _worker(config)
    if worker is not None:
        worker.sendevent = wrap(worker.channel.send, lambda: _is_next_queued(worker))


@contextmanager
def reporting_another(item: pytest.Item) -> Generator[None, None, None]:
    """Let a worker report another item than its running one; do nothing in other processes."""
    worker = _worker(item.config)
    if worker is None:
        yield
        return
    running, worker.item_index = worker.item_index, item.session.items.index(item)
    try:
        yield
    finally:
        worker.item_index = running


def sent_programs() -> list[tuple[str, str]]:
    """Return the sources that a worker gets from execnet (2.1) and xdist, with file names.

    gateway_bootstrap.bootstrap_exec sends the first, gateway_base.executetask runs the second.
    """
    from execnet import gateway_base
    from xdist import remote

    return [
        (inspect.getsource(gateway_base), "<string>"),
        (inspect.getsource(remote) + "\n", str(remote.__file__)),
    ]


def _worker(config: pytest.Config) -> Any:
    for plugin in config.pluginmanager.get_plugins():
        if hasattr(plugin, "sendevent") and hasattr(plugin, "torun"):
            return plugin
    return None


def _is_next_queued(worker: Any) -> bool:
    """Whether a worker can begin its next item at once: it has the item after that in its queue.

    xdist 3.6 has no queue that can be inspected: the answer is False.
    """
    return bool(getattr(worker.torun, "_items", ()))
