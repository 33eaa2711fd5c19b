"""The names of xdist (3.6 to 3.8) and execnet, hooks aside, that the controller uses.

xdist's loop (`DSession`) has no notion of a worker that is not connected yet, of a worker that it
did not start, or of an error that no worker reported. No other module in the controller's process
names an attribute of xdist's loop, its `NodeManager` or its `WorkerController`, or imports execnet.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import execnet

from pytest_bpflink.matrix.guests import last_words
from pytest_bpflink.matrix.plain_values import DamagedError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from execnet import Channel, XSpec
    from xdist.dsession import DSession
    from xdist.workermanage import NodeManager, WorkerController

    from pytest_bpflink.matrix.guests.last_words import LastWords

    Connect = Callable[[XSpec, Any], WorkerController]


class XdistLoop:
    """The loop of a session's controller; xdist makes it when pytest is configured."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._set_up: Connect

    @property
    def is_stopping(self) -> bool:
        """Whether the session ends before all items have run."""
        return bool(self._session.shouldstop)

    @property
    def is_ending(self) -> bool:
        """Whether the session stops, or all items have run."""
        return self.is_stopping or self._session.shuttingdown

    # Workers.

    def connect_by(self, connect: Connect) -> None:
        """Have xdist call CONNECT for each worker; CONNECT calls `set_up` or returns a `place`.

        An exception while xdist connects is an internal error, which ends the run for all kernels.
        """
        manager = self._manager
        self._set_up, tear_down = manager.setup_node, manager.teardown_nodes

        def teardown_nodes() -> None:
            # execnet 2.1 fails to end a worker whose proxy on another host is gone already.
            with suppress(OSError):
                tear_down()

        manager.setup_node = connect  # type: ignore[method-assign,assignment]
        manager.teardown_nodes = teardown_nodes  # type: ignore[method-assign]

    def set_up(self, spec: XSpec, putevent: Any) -> WorkerController:
        """Connect to a worker as xdist does. Raises OSError, EOFError or AssertionError."""
        return self._set_up(spec, putevent)

    def start_worker(self, spec: XSpec) -> None:
        """Connect to one more worker, and have the loop go on until that worker is gone."""
        self.join(self._manager.setup_node(spec, self._session.queue.put))

    def join(self, worker: WorkerController) -> None:
        """Have the loop go on until this worker is gone, too."""
        self._session._active_nodes.add(worker)  # noqa: SLF001

    def place(self) -> WorkerController:
        """Return an object that keeps the loop going in place of a worker, until `leave`."""
        return cast("WorkerController", _Place())

    def leave(self, place: WorkerController) -> None:
        """Have the loop wait no longer for this place; to be called in the loop."""
        self._session._active_nodes.remove(place)  # noqa: SLF001

    def call(self, function: Callable[[], None]) -> None:
        """Have the loop call a function; any thread may call this method."""
        session = self._session
        # DSession.loop_once calls the method f"worker_{event}".
        session.worker_bpflink = _call  # type: ignore[attr-defined]
        session.queue.put(("bpflink", {"function": function}))

    # Failures and figures.

    def count_failure(self) -> None:
        """Count a failure for -x and --maxfail: xdist counts the reports of workers only."""
        session = self._session
        session.countfailures += 1
        if session.maxfail and session.countfailures >= session.maxfail and not session.shouldstop:
            session.shouldstop = f"stopping after {session.countfailures} failures"

    def stop(self, reason: str) -> None:
        """End the session before all items have run; pytest's last lines show the reason."""
        self._session.shouldstop = reason

    def hide_status(self, is_hidden: Callable[[XSpec], bool]) -> None:
        """Keep xdist from writing the status of some workers into a line of results."""
        reporter = self._config.pluginmanager.get_plugin("terminaldistreporter")
        if reporter is None:
            return
        set_status = reporter.setstatus

        def setstatus(spec: XSpec, *status: Any, **more: Any) -> None:
            if not is_hidden(spec):
                set_status(spec, *status, **more)

        reporter.setstatus = setstatus

    @property
    def _manager(self) -> NodeManager:
        manager = self._session.nodemanager
        assert manager is not None
        return manager

    @property
    def _session(self) -> DSession:
        session: DSession | None = self._config.pluginmanager.get_plugin("dsession")
        assert session is not None
        return session


class _Place:
    """Stands among xdist's active workers, so that the loop goes on."""


class MissingWorker:
    """Stands in reports for a worker that could not be started."""

    def __init__(self, spec: XSpec, name: str) -> None:
        self.gateway = SimpleNamespace(spec=spec, id=name)
        # The terminal shows it above a failure (pytest 9.2).
        self._workerinfocache = f"[{name}]"


def worker_spec(text: str) -> XSpec:
    """Return a worker's specification; xdist replaces it if its execmodel is not xdist's."""
    return execnet.XSpec(text)


def listen(
    node: WorkerController,
    *,
    heard: Callable[[str, dict[str, Any]], None],
    sent: Callable[..., None],
) -> None:
    """Call HEARD with each event of a worker before the loop, and SENT with each command to it.

    HEARD is called in the thread that receives: the loop stands still while it connects to another
    worker.
    """
    put, send = node.putevent, node.sendcommand

    def putevent(event: tuple[str, dict[str, Any]]) -> None:
        heard(*event)
        put(event)

    def sendcommand(name: str, **arguments: Any) -> None:
        send(name, **arguments)
        sent(name, **arguments)

    node.putevent = putevent
    node.sendcommand = sendcommand  # type: ignore[method-assign]


def receive_by(
    node: WorkerController, unpack: Callable[[Callable[[Any], None]], Callable[[Any], None]]
) -> None:
    """Have UNPACK(receive) take a worker's messages; `receive` is xdist's function for that.

    An internal error of a worker's pytest is its death; for xdist it ends the session (3.8:
    DSession.worker_internal_error). Nothing that a dead worker sends later is received.
    """
    process = node.process_from_remote

    def receive(event: Any) -> None:
        if isinstance(event, tuple) and node._down:  # noqa: SLF001
            return
        if isinstance(event, tuple) and event[0] == "internal_error":
            declare_dead(node, last_words.of_exception(str(event[1].get("formatted_error"))))
            return
        if isinstance(event, tuple) and event[0] == "warning_recorded":
            data = event[1].get("warning_message_data")
            event[1]["warning_message_data"] = _of_known_class(data)
        process(event)

    unpacked = unpack(receive)
    node.process_from_remote = unpacked  # type: ignore[method-assign,assignment]


def _of_known_class(data: Any) -> Any:
    """Return a warning's data with classes that this process has imported, or with Warning.

    xdist imports the modules that the data name, and calls the class: a worker's own class may be
    missing here, and a guest could name any function.
    """
    if not isinstance(data, dict):
        raise DamagedError("it has no warning")
    data = dict(data)
    if not _is_warning(data.get("message_module"), data.get("message_class_name")):
        data["message_module"] = None
    if not _is_warning(data.get("category_module"), data.get("category_class_name")):
        name = f"{data.get('category_module')}.{data.get('category_class_name')}"
        data["message_str"] = f"{name}: {data.get('message_str')}"
        data["message_module"] = None
        data["category_module"], data["category_class_name"] = "builtins", "Warning"
    return data


def _is_warning(module: object, name: object) -> bool:
    if not isinstance(module, str) or not isinstance(name, str):
        return False
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and issubclass(found, Warning)


def declare_dead(node: WorkerController, reason: LastWords) -> None:
    """Have the loop treat a worker as dead for this reason; any thread may call it."""
    if not node._down:  # noqa: SLF001
        node._down = True  # noqa: SLF001
        node.notify_inproc("errordown", node=node, error=reason)


def end_worker(node: WorkerController) -> Any:
    """End the connection to a worker, and return the connection's process, if this host has it.

    xdist keeps processes and pipes until the end of the session, when execnet waits for processes.
    """
    node.gateway.exit()
    return getattr(node.gateway._io, "popen", None)  # noqa: SLF001


def count_collected(session: pytest.Session, number: int) -> None:
    """Set the number of collected items, for pytest's last line.

    xdist sets it to the number that the last worker collected; with 0, pytest says "no tests ran".
    """
    session.testscollected = number


#: xdist's error of a worker whose connection ended without another error.
CONNECTION_ENDED = "Not properly terminated"


class HostConnection:
    """A Python on another host that runs a program, and the channel to it."""

    def __init__(self, address: str, program: str) -> None:
        """Connect. Raises OSError, EOFError or AssertionError where execnet can't."""
        self._group = execnet.Group(execmodel="main_thread_only")
        try:
            self.channel: Channel = self._group.makegateway(address).remote_exec(program)
        except execnet.HostNotFound as error:
            raise ConnectionError(str(error)) from None

    def close(self) -> None:
        """End the connection, and with it the program."""
        self._group.terminate(timeout=2.0)


def _call(function: Callable[[], None]) -> None:
    function()
