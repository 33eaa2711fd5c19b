"""What a worker does for the kernel matrix, beside making items (`items`).

It sends the controller facts of its items, and reports items that must not run here as errors.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_bpflink.building.host import ask_by
from pytest_bpflink.matrix import messages
from pytest_bpflink.matrix.event_packing import Packing
from pytest_bpflink.matrix.items import is_parametrized, register, without_kernel
from pytest_bpflink.matrix.messages import ItemFacts, say
from pytest_bpflink.matrix.worker.connection_watch import ConnectionWatch
from pytest_bpflink.matrix.worker.early_end import EarlyEnd
from pytest_bpflink.matrix.worker.host_compiler import HostCompiler
from pytest_bpflink.matrix.worker.only_item import OnlyItem, fresh_item, known_bug
from pytest_bpflink.matrix.worker.taint import TaintWatch
from pytest_bpflink.session import process_watch, pytest_internals, xdist_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from execnet import Channel

    from pytest_bpflink.matrix.messages import Assignment
    from pytest_bpflink.session.xdist_worker import SendEvent


# Files of the matrix and of the session are on the stack of a running test.
_OWN_FILES = tuple(f"{Path(__file__).parents[2]}/{room}/" for room in ("matrix", "session"))

# pytest's own: too many files can't be collected, or an argument names nothing.
_ENDS_OF_COLLECTION = (pytest.Session.Failed, pytest.Session.Interrupted, pytest.UsageError)


class MatrixWorker:
    """Sends the controller facts of items, and reports items that must not run here as errors."""

    def __init__(self, config: pytest.Config, assignment: Assignment) -> None:
        self._config = config
        self._channel = assignment.channel
        self._kernel = assignment.kernel
        self._item = assignment.item
        self._libbpf = assignment.libbpf
        self._refusal = assignment.stand_in or self._wrong_kernel()
        self._host_compiler = HostCompiler(assignment.channel)
        self._runs_items = False
        #: The exception that ends this session, and its place.
        self._interrupt: tuple[str, str] | None = None

    def start(self) -> None:
        """Register this worker's plugins, set its options, and pack the events that it sends."""
        config = self._config
        register(config, self)
        # execnet's thread calls this, also while a test hangs, unless the test keeps the GIL.
        self._channel.setcallback(self._take)
        if not self._kernel.is_native:
            ask_by(self._host_compiler.ask)
        if self._item:
            register(config, OnlyItem(config, self._item))
        register(config, ConnectionWatch(config))
        xdist_worker.send_events_by(config, self._packed)
        if not self._kernel.is_native and not self._refusal:
            end = EarlyEnd(config, flush=self._packing.flush)
            register(config, end)
            register(config, TaintWatch(end.after))
            process = process_watch.ProcessWatch(config, end_after=end.at_once_after)
        else:
            process = process_watch.ProcessWatch(config)
        config.pluginmanager.register(process, process_watch.NAME)
        xdist_worker.send_any_warning(config)
        pytest_internals.take_shortcuts()
        # `ItemFacts` carry the groups. xdist would append groups to node ids, which --lf then does
        # not find; with pytest 9.2, whose node ids can't be changed, xdist 3.8 ignores groups.
        config.option.loadgroup = False
        # The controller has chosen this libbpf, and built it if need be.
        config.option.bpf_libbpf = self._libbpf
        if not self._kernel.is_native:
            # xdist names a directory of the host; a guest may lack its parents.
            config.option.basetemp = None if self._refusal else _own_directory(config)
        if self._refusal:
            # No test runs here that could leave or log anything.
            config.option.bpf_leaks = config.option.bpf_dmesg = "off"

    def _take(self, message: Any) -> None:
        if message == "where":
            say(self._channel, "stack", _where_the_test_is())
        else:
            self._host_compiler.take(message)

    def _packed(
        self, send: Callable[[object], None], is_next_queued: Callable[[], bool]
    ) -> SendEvent:
        self._packing = Packing(send, is_next_queued)
        return self._packing.sendevent

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        """Tell the controller why this pytest can't collect: its own message stays in the guest."""
        try:
            return (yield)
        except pytest.UsageError as error:
            say(self._channel, "refused", "\n".join(map(str, error.args)))
            raise
        except _ENDS_OF_COLLECTION:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 (of any conftest file or plugin)
            say(self._channel, "refused", f"{error!r}\n{_place(error)}")
            raise pytest.UsageError(repr(error)) from None

    # Before xdist's hook, so that the controller knows the groups when it has the collection.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Send the controller the `ItemFacts`, and have pytest look up hooks once per file."""
        error = sys.exc_info()[1]
        if error and not isinstance(error, _ENDS_OF_COLLECTION):
            # pytest (9.2) calls this also if collection raised. xdist would send an empty one.
            raise error
        described = {item.nodeid: self._describe(item).plain for item in session.items}
        say(self._channel, "items", described)
        pytest_internals.look_up_hooks_once(session)

    def _describe(self, item: pytest.Item) -> ItemFacts:
        # A native worker runs such an item as any other, and a stand-in refuses it as any other.
        fresh = None if self._kernel.is_native or self._refusal else fresh_item(item)
        if fresh and self._is_skipped(item):
            fresh = None  # not worth a guest
        return ItemFacts(
            without_kernel(item),
            _group(item),
            is_parametrized(item),
            fresh,
            known_bug(item),
        )

    def _is_skipped(self, item: pytest.Item) -> bool:
        from pytest_bpflink.session import requirements

        return requirements.is_skipped(item)

    def pytest_sessionstart(self) -> None:
        """With -s, send the controller the lines that tests print, without this pytest's own."""
        if self._config.option.capture == "no":
            # execnet talks through the real stdout, and has replaced it by /dev/null.
            sys.stdout = sys.stderr = Printing(self._channel)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        """Note that items run."""
        self._runs_items = True
        return (yield)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note which exception ends this session: xdist says that it was Ctrl-C."""
        if isinstance(excinfo.value, pytest.Session.Interrupted):
            return  # pytest's own, for example after errors in collection
        is_exit = isinstance(excinfo.value, pytest.exit.Exception)
        what = f"pytest.exit({str(excinfo.value)!r})" if is_exit else excinfo.typename
        self._interrupt = what, _place(excinfo.value)
        if not self._runs_items:
            say(self._channel, "refused", "\n".join(self._interrupt))

    # As in `early_end`: xdist sends the output after this hook.
    def pytest_sessionfinish(self) -> None:
        """Have an exception end the run if an item raised it; before, it ends this worker only."""
        output = self._config.workeroutput  # type: ignore[attr-defined]
        if self._interrupt is None:
            return
        if self._runs_items:
            # Whatever status pytest.exit gives this session.
            output["exitstatus"] = int(pytest.ExitCode.INTERRUPTED)
            output[messages.INTERRUPTED] = self._interrupt
        else:
            output["exitstatus"] = int(pytest.ExitCode.USAGE_ERROR)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Report on which kernel a file can't be collected: xdist shows it once for all kernels."""
        if report.failed:
            say(self._channel, "uncollected", report.nodeid)

    def pytest_runtest_logfinish(self) -> None:
        """Send the line that a test printed and did not end."""
        if isinstance(sys.stdout, Printing):
            sys.stdout.finish()

    # The whole protocol, so that no mark (skip, xfail) and no plugin hides the error.
    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Report an item that must not run as an error in its set-up."""
        if not self._refusal:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in (_report(item, "setup", self._refusal), _report(item, "teardown", None)):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _wrong_kernel(self) -> str | None:
        running = os.uname().release
        if running == self._kernel.release:
            return None
        return (
            f"{self._kernel.id} is Linux {self._kernel.release}, but this worker runs on"
            f" {running}: not run, since the result would be another kernel's"
        )


class Printing(io.TextIOBase):
    """The stdout of tests with -s: the controller shows their output, line by line."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._line = ""

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Pass on whole lines."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            say(self._channel, "printed", line)
        return len(text)

    def finish(self) -> None:
        """Pass on a line that was not ended; to be called after each test."""
        if self._line:
            self.write("\n")


def _own_directory(config: pytest.Config) -> str:
    """Return a base directory for pytest's temporary files, which is lost with the guest.

    If pytest chose the directory it would, at the end, also delete old ones beside it, which are
    the host's. Here, as with xdist's own, nothing else lies beside it.
    """
    beside = tempfile.mkdtemp(prefix="pytest-")
    return f"{beside}/popen-{config.workerinput['workerid']}"  # type: ignore[attr-defined]


def _where_the_test_is() -> str:
    """Return the stack of the main thread, without the frames of test runners."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]  # noqa: SLF001
    return _without_runners(traceback.extract_stack(frame))


def _place(error: BaseException) -> str:
    """Return an exception's stack, without the frames of test runners."""
    return _without_runners(traceback.extract_tb(error.__traceback__))


def _without_runners(stack: traceback.StackSummary) -> str:
    tests = [entry for entry in stack if not _runs_tests(entry.filename)]
    return "".join(traceback.format_list(tests or stack)).rstrip()


def _runs_tests(filename: str) -> bool:
    return filename.startswith(_OWN_FILES) or pytest_internals.is_runner(filename)


def _group(item: pytest.Item) -> str | None:
    names = {
        str(mark.args[0] if mark.args else mark.kwargs.get("name", "default"))
        for mark in item.iter_markers("xdist_group")
    }
    return "_".join(sorted(names)) or None


def _report(
    item: pytest.Item, when: Literal["setup", "teardown"], failure: str | None
) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed" if failure else "passed",
        longrepr=failure,
        when=when,
        user_properties=item.user_properties,
    )
