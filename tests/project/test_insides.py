"""The installed releases of pytest, xdist and execnet have the inner names that the project uses.

If a name is missing, the test's message names the file to mend.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.project.test_rooms import INSIDES
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

XDIST_LOOP, PYTEST_INTERNALS, XDIST_WORKER = INSIDES

#: The names by the file that uses them: of a module, of a class, or set by a class's methods.
NAMES = {
    PYTEST_INTERNALS: """
        _pytest.assertion.rewrite: PYC_TAIL _read_pyc _rewrite_test _write_pyc assertstate_key
        _pytest.assertion.rewrite: get_cache_dir try_makedirs
        _pytest.config: default_plugins
        _pytest.fixtures: FixtureFunctionDefinition getfuncargnames
        _pytest.fixtures.FixtureManager: getfixturedefs
        _pytest.junitxml: xml_key
        _pytest.junitxml.LogXML: node_reporter
        _pytest.junitxml._NodeReporter: add_property
        _pytest.main.Session: gethookproxy
        _pytest.python: getfslineno
        _pytest.tmpdir.TempPathFactory: getbasetemp
        """,
    XDIST_LOOP: """
        execnet: Group HostNotFound XSpec
        _pytest.reports: getworkerinfoline
        execnet.gateway.Gateway: exit remote_exec
        execnet.gateway_base.BaseGateway: _io
        execnet.gateway_io.Popen2IOMaster: popen
        execnet.multi.Group: makegateway terminate
        pytest.Session: testscollected
        xdist.dsession.DSession: _active_nodes countfailures maxfail nodemanager queue shouldstop
        xdist.dsession.DSession: loop_once shuttingdown worker_errordown worker_internal_error
        xdist.dsession.TerminalDistReporter: setstatus
        xdist.workermanage.NodeManager: setup_node teardown_nodes
        xdist.workermanage.WorkerController: _down notify_inproc process_from_remote putevent
        xdist.workermanage.WorkerController: gateway sendcommand
        """,
    XDIST_WORKER: """
        execnet: gateway_base
        execnet.gateway_base.BaseGateway: _io
        execnet.gateway_base.Channel: gateway
        execnet.gateway_base.Popen2IO: infile outfile
        xdist: remote
        xdist.remote.WorkerInteractor: channel item_index sendevent torun
        """,
}


def names(file: str) -> Iterator[tuple[str, str]]:
    for line in textwrap.dedent(NAMES[file]).split("\n"):
        holder, _, attributes = line.partition(":")
        for attribute in attributes.split():
            yield holder, attribute


def find(path: str) -> Any:
    """Return a module, or a class in one."""
    try:
        return importlib.import_module(path)
    except ImportError:
        module, _, name = path.rpartition(".")
        return getattr(importlib.import_module(module), name)


def has(holder: Any, name: str) -> bool:
    """Whether a module or a class has a name, or a method of the class sets it."""
    if hasattr(holder, name):
        return True
    if not inspect.isclass(holder):
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(holder)))
    return any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize(
    ("file", "path", "name"),
    [
        pytest.param(file, *each, id=".".join([Path(file).stem, *each]))
        for file in INSIDES
        for each in sorted({*names(file)})
    ],
)
def test_inside_is_there(file: str, path: str, name: str) -> None:
    try:
        is_there = has(find(path), name)
    except (ImportError, AttributeError):
        is_there = False
    assert is_there, f"{path} has no {name}: mend {file}"


def test_a_missing_inside_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("_pytest.python.getfslineno")

    with pytest.raises(AssertionError, match=f"has no getfslineno: mend {PYTEST_INTERNALS}"):
        test_inside_is_there(PYTEST_INTERNALS, "_pytest.python", "getfslineno")


@pytest.mark.parametrize("file", INSIDES)
def test_every_inside_that_a_file_uses_is_looked_for(file: str) -> None:
    """All names of imported modules, and all names that begin with an underscore."""
    tree = ast.parse((ROOT / file).read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0]
        in {"_pytest", "execnet", "xdist"}
    }
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and not node.attr.startswith("__")
        if ast.unparse(node.value) in imported
        or (node.attr.startswith("_") and ast.unparse(node.value) not in {"self", "cls"})
    }
    assert used - {name for _, name in names(file)} == set()
