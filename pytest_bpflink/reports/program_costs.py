"""Asks what it costs to verify the programs that tests load, for `--kernel-report`.

Runs where tests run, in workers and in guests, too. What it found travels in the report of the test
that loaded the programs. The kernel tells most of it only while it verifies, so the first time that
a program is loaded a copy of it is verified, too.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfProgInfo
from pytest_bpflink.bpf import loaded
from pytest_bpflink.bpf.verification import verified_again
from pytest_bpflink.errors import BpfError
from pytest_bpflink.reports.results import ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pytest_bpflink.bpf.handles import ObjectHandle, ProgramHandle

NAME = "bpflink-costs"
"""The name of the plugin."""

_Row = tuple[str, str, int, int, int | None, int | None]


def ask(config: pytest.Config) -> None:
    """Ask for the costs of all programs that tests of this process load."""
    if not config.pluginmanager.hasplugin(NAME):
        config.pluginmanager.register(ProgramCosts(config.rootpath), NAME)


class ProgramCosts:
    """Adds to each report the costs of programs that were loaded for the first time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[tuple[Path, str]] = set()
        self._new: list[_Row] = []
        loaded.listeners.append(self._measure)

    def pytest_unconfigure(self) -> None:
        """End asking."""
        loaded.listeners.remove(self._measure)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Attach what is new to a report, which a connection can carry."""
        report = yield
        if self._new:
            setattr(report, ATTRIBUTE, self._new)
            self._new = []
        return report

    def _measure(self, owner: ObjectHandle) -> None:
        for name, program in owner.programs.items():
            if (owner.file, name) not in self._known:
                with contextlib.suppress(BpfError):  # it was not loaded
                    self._new.append((self._named(owner.path), name, *_costs(owner, program)))
                    self._known.add((owner.file, name))

    def _named(self, path: Path) -> str:
        return str(path.relative_to(self._root) if path.is_relative_to(self._root) else path.name)


def _costs(owner: ObjectHandle, program: ProgramHandle) -> tuple[int, int, int | None, int | None]:
    """Return instructions, bytes of code, bytes of stack and microseconds. Raises `BpfError`."""
    info = libbpf.read_info(program.fd, BpfProgInfo, doing=f"ask about program {program.name}")
    size = int(info.jited_prog_len)
    try:
        found = verified_again(owner, program)
    except BpfError:  # struct_ops, and programs that need what their loader chose
        return int(info.verified_insns), size, None, None
    return found.insns, size, sum(found.stack_depths), found.time
