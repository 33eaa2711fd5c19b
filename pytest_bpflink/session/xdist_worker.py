"""The names of xdist (3.6 to 3.8) and execnet, hooks aside, that a worker uses.

xdist's `WorkerInteractor` runs a worker's items and sends their events. xdist registers it as a
plugin without a name.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import warnings
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


def finish(config: pytest.Config) -> None:
    """Send this worker's `workeroutput`, as xdist does at the end of a session."""
    _worker(config).sendevent("workerfinished", workeroutput=config.workeroutput)  # type: ignore[attr-defined]


def connection(config: pytest.Config) -> list[int]:
    """Return the descriptors of this worker's connection to the controller."""
    worker = _worker(config)
    if worker is None:
        return []
    io = worker.channel.gateway._io  # noqa: SLF001
    return [io.infile.fileno(), io.outfile.fileno()]


def send_any_warning(config: pytest.Config) -> None:
    """Let a worker send a warning whose text or arguments execnet can't carry: as a text alone."""
    worker = _worker(config)
    if worker is None:
        return
    # execnet runs xdist's module as a program, so the function is not that of `xdist.remote`.
    namespace = type(worker).pytest_warning_recorded.__globals__
    serialize = namespace["serialize_warning_message"]

    def serialize_any(warning_message: warnings.WarningMessage) -> dict[str, Any]:
        try:
            data: dict[str, Any] = serialize(warning_message)
        except Exception:  # noqa: BLE001 (execnet raises whatever its encoding raises)
            category = warning_message.category
            data = {
                **dict.fromkeys(vars(warning_message)),
                "filename": warning_message.filename,
                "lineno": warning_message.lineno,
                "message_str": str(warning_message.message),
                "message_module": None,
                "category_module": category.__module__,
                "category_class_name": category.__name__,
            }
        return data

    namespace["serialize_warning_message"] = serialize_any


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
    """Return the sources that execnet (2.1) and xdist send to a worker, with file names.

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
