"""What programs print, in pytest's reports: `bpf_printk`, and the streams of programs.

A trace instance is made when a test first loads a program that prints, or asks for `bpf_trace`. It
serves all tests of this process.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink.binding.uapi import BpfStream
from pytest_bpflink.bpf import loaded
from pytest_bpflink.bpf.events.trace import BpfTrace
from pytest_bpflink.errors import BpfError, NotSupported
from pytest_bpflink.ledger.estate import Estate
from pytest_bpflink.session.guest import is_in_guest
from pytest_bpflink.session.kernel_log_check import end_of
from pytest_bpflink.session.siblings import is_of_another_session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from pytest_bpflink.bpf.handles import ObjectHandle, ProgramHandle

NAME = "bpflink-trace"
"""The name of the plugin."""


class TraceSections:
    """Shows in the report of a failed test what programs printed while it ran."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._estate: Estate | None = None
        self._trace: BpfTrace | None = None
        self._refusal = ""
        self._anothers: dict[int, bool] = {}
        loaded.listeners.append(self._begin_if_printing)

    def trace(self) -> BpfTrace:
        """Return the trace of this process. Raises `BpfError` where there can't be one."""
        if self._trace is None:
            try:
                self._trace = self._begun()
            except OSError as error:
                hint = "needs CAP_SYS_ADMIN, and a kernel with tracefs and BPF events"
                raise BpfError(error.errno or 0, "trace bpf_printk", hint=hint) from error
        return self._trace

    def pytest_unconfigure(self) -> None:
        """Remove the instance."""
        loaded.listeners.remove(self._begin_if_printing)
        if self._trace is not None:
            self._trace.close()
        # A guest's kernel ends with it, and removing an instance waits for all processors.
        if self._estate is not None and not is_in_guest(self._config):
            self._estate.close()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, None, None]:
        """Forget what was printed before the test."""
        if self._trace is not None:
            self._trace.clear()
            self._anothers.clear()
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach what was printed to a failed report."""
        report = yield
        if report.failed:
            report.sections += self._sections()
        return report

    def _sections(self) -> Iterator[tuple[str, str]]:
        if self._refusal:
            yield "BPF trace", self._refusal
        if self._trace is not None and (printed := self._trace.printed):
            yield "BPF trace", end_of(printed)
        for name, stream, text in _streams():
            yield f"BPF {stream.name.lower()} of {name}", end_of(text.splitlines())

    def _begin_if_printing(self, new: ObjectHandle) -> None:
        if self._trace is not None or self._refusal:
            return
        if any(program.prints for program in new.programs.values()):
            try:
                self.trace()
            except BpfError as error:
                self._refusal = f"({error})"

    def _begun(self) -> BpfTrace:
        self._estate = self._estate or Estate.found()
        with self._estate.trace_instance() as instance:
            return BpfTrace(instance, is_anothers=self._is_anothers)

    def _is_anothers(self, tid: int) -> bool:
        if tid not in self._anothers:
            self._anothers[tid] = is_of_another_session(tid)
        return self._anothers[tid]


def of(config: pytest.Config) -> TraceSections:
    """Return the plugin of a session, which is registered at the first call."""
    plugin: Any = config.pluginmanager.get_plugin(NAME)
    if plugin is None:
        plugin = TraceSections(config)
        config.pluginmanager.register(plugin, NAME)
    assert isinstance(plugin, TraceSections)
    return plugin


def _streams() -> Iterator[tuple[str, BpfStream, str]]:
    """Take what is in the streams of all programs of this process."""
    with contextlib.suppress(NotSupported):
        for each in loaded.loaded_objects():
            for name, program in each.programs.items():
                for stream in (BpfStream.STDOUT, BpfStream.STDERR):
                    text = _read(program, stream)
                    if text:
                        yield name, stream, text


def _read(program: ProgramHandle, stream: BpfStream) -> str:
    try:
        return program.read_stream(stream)
    except NotSupported:
        raise
    except BpfError:  # not loaded
        return ""
