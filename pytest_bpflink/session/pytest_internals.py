"""The private names of pytest (9.0 to 9.2) that the project uses.

A name that another pytest lacks is not used: sessions are slower then, or a report has less in it,
and no verdict changes.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from _pytest import fixtures, python
from _pytest import junitxml as junit
from _pytest.assertion import rewrite
from _pytest.config import default_plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pytest

    Function = Callable[..., Any]

# Rewritten modules.

#: The variable that names the directory of rewritten modules; guests must not write `__pycache__`.
PYCACHE: Final = "BPFLINK_PYCACHE"


def use_pycache() -> None:
    """Have pytest look for rewritten modules in the directory that the host put them into.

    PYTHONPYCACHEPREFIX would have Python look there for every other module, too.
    """
    named = os.environ.get(PYCACHE)
    if named:
        rewrite.get_cache_dir = lambda file_path: Path(named, *file_path.parts[1:-1])


def rewrite_modules(config: pytest.Config, modules: Iterable[Path]) -> None:
    """Write the .pyc files that pytest writes when it imports modules; nothing is run.

    In an emulated guest rewriting takes most of the time of a collection, and the guest's files are
    lost. pytest has no API for this.
    """
    for module in modules:
        # Another pytest, or a file that can't be parsed, which an import will report.
        with contextlib.suppress(AttributeError, KeyError, OSError, SyntaxError, TypeError):
            _rewrite(config, module)


def _rewrite(config: pytest.Config, module: Path) -> None:
    pyc = rewrite.get_cache_dir(module) / (module.stem + rewrite.PYC_TAIL)
    if rewrite._read_pyc(module, pyc) is None and rewrite.try_makedirs(pyc.parent):  # noqa: SLF001
        identity, code = rewrite._rewrite_test(module, config)  # noqa: SLF001
        state = config.stash[rewrite.assertstate_key]
        rewrite._write_pyc(state, code, identity, pyc)  # noqa: SLF001


# Shortcuts for workers: in an emulated guest they save a tenth of a short test.


def take_shortcuts() -> None:
    """Shorten, in this process, two look-ups that pytest makes for each item."""
    _replace(python, "getfslineno", _once_a_function)
    _replace(fixtures, "getfuncargnames", _none_at_a_glance)


def look_up_hooks_once(session: pytest.Session) -> None:
    """Have pytest look up the hooks of a file once, and not nine times per item.

    To be called after collection: no conftest file is loaded later.
    """
    session.gethookproxy = cache(session.gethookproxy)  # type: ignore[method-assign,assignment]


def _replace(module: Any, name: str, shortened: Callable[[Function], Function]) -> None:
    original = getattr(module, name, None)
    if original is not None:
        setattr(module, name, shortened(original))


def _once_a_function(find: Function) -> Function:
    """Cache where a function is defined: pytest looks for each item whether the file exists."""
    find_once = cache(find)

    def found(obj: object) -> Any:
        return (find_once if type(obj) is FunctionType else find)(obj)

    return found


def _none_at_a_glance(find: Function) -> Function:
    """Answer at once for a function without arguments: pytest asks about one for each item.

    A function with attributes may stand for another function, so `find` answers for it.
    """

    def found(function: Function, *args: Any, **kwargs: Any) -> Any:
        if type(function) is FunctionType and not function.__dict__:
            code = function.__code__
            if not code.co_argcount and not code.co_kwonlyargcount:
                return ()
        return find(function, *args, **kwargs)

    return found


# Facts of a session.


def has_fixture(item: pytest.Item, name: str) -> bool:
    """Whether a test could ask for a fixture of this name, by `getfixturevalue` too."""
    manager = item.config.pluginmanager.get_plugin("funcmanage")
    return manager is None or bool(manager.getfixturedefs(name, item))


def temporary_directory(config: pytest.Config) -> Path | None:
    """Return the directory in which `tmp_path` makes directories; None without its plugin."""
    factory = getattr(config, "_tmp_path_factory", None)
    return None if factory is None else Path(factory.getbasetemp())


def add_to_junit(config: pytest.Config, report: pytest.TestReport) -> None:
    """Add a report's properties to JUnit's file, which takes properties from teardowns only.

    Without it, an item whose worker died earlier has none there (pytest 9.2, LogXML.finalize).
    """
    log = config.stash.get(junit.xml_key, None)
    if log and report.when != "teardown":
        for name, value in report.user_properties:
            log.node_reporter(report).add_property(name, value)


def is_runner(filename: str) -> bool:
    """Whether a file on the stack of a test belongs to the programs that run tests."""
    return bool(_RUNNERS.search(filename))


_RUNNERS = re.compile(r"/(_pytest|pluggy|xdist|execnet)/|^<")

# For guests, which import pytest before they are saved.

#: The top-level packages of pytest and of its own libraries.
PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging")

#: The modules that a session imports before its first item.
MODULES = (
    "pytest",
    "_pytest._argcomplete",
    "_pytest.assertion.rewrite",
    "_pytest.assertion.truncate",
    "_pytest.assertion.util",
    "_pytest.pathlib",
    *(f"_pytest.{plugin}" for plugin in default_plugins),
)

#: The modules among them that are plugins of pytest.
PLUGINS = tuple(f"_pytest.{plugin}" for plugin in default_plugins)


def shorten_search(plugins: Iterable[str]) -> None:
    """Have `dir` of these modules name only the hooks and fixtures that pytest looks for.

    pytest goes through all names of a plugin twice: when it registers the plugin, and when it finds
    the plugin's fixtures. This takes a tenth of the time up to the first test.
    """
    for plugin in plugins:
        module = sys.modules.get(plugin)
        if module and "__dir__" not in vars(module):
            names = [name for name, value in vars(module).items() if _is_looked_for(name, value)]
            vars(module)["__dir__"] = _answering_twice(vars(module), names)


def _is_looked_for(name: str, value: object) -> bool:
    return name.startswith("pytest_") or isinstance(value, fixtures.FixtureFunctionDefinition)


def _answering_twice(namespace: dict[str, object], names: list[str]) -> Callable[[], list[str]]:
    """Return a `__dir__` that answers NAMES twice, and then removes itself from the module."""
    answers = [names, names]

    def answer() -> list[str]:
        if len(answers) == 1:
            del namespace["__dir__"]
        return answers.pop()

    return answer
