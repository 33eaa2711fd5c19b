"""What is made on the host before guests start, since guests would make it slowly, each on its own.

That is the objects of BPF programs, and pytest's rewritten tests. Knows where they belong: below
the directories of pytest's arguments, since the controller of xdist's workers collects nothing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from _pytest.assertion import rewrite

from pytest_bpflink import compile as bpf_compile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pytest

# Named to guests where the tests' own __pycache__ must not be written.
_PYCACHE_VARIABLE = "BPFLINK_PYCACHE"


def prepare(config: pytest.Config, progress: Callable[[str], None]) -> list[Path]:
    """Compile BPF programs, which are returned, and rewrite tests, unless that was done before."""
    files = sorted(set(_files(config)))
    sources = [file for file in files if file.name.endswith(".bpf.c")]
    bpf_compile.prepare(sources, before_each=lambda source: progress(f"compiling {source.name}"))
    if config.option.assertmode == "rewrite":
        patterns = ["conftest.py", *config.getini("python_files")]
        named = _named(config)
        tests = [file for file in files if file in named or _is_like(file, patterns)]
        rewrite_tests(config, (file for file in tests if file.suffix == ".py"))
    return sources


def rewrite_tests(config: pytest.Config, tests: Iterable[Path]) -> None:
    """Write the .pyc files that pytest writes when it imports tests; nothing is run.

    In an emulated guest rewriting takes most of a collection, and what a guest writes is lost. No
    API of pytest does this (9.0 to 9.2). Without it guests are slow, and no less right.
    """
    if sys.dont_write_bytecode:
        os.environ[_PYCACHE_VARIABLE] = str(bpf_compile.cache_directory() / "pycache")
        use_pycache()
    for test in tests:
        # Another pytest, or a file that can't be parsed, of which the test's import will tell.
        with contextlib.suppress(AttributeError, KeyError, OSError, SyntaxError, TypeError):
            _rewrite(config, test)


def _rewrite(config: pytest.Config, test: Path) -> None:
    pyc = rewrite.get_cache_dir(test) / (test.stem + rewrite.PYC_TAIL)
    if rewrite._read_pyc(test, pyc) is None and rewrite.try_makedirs(pyc.parent):  # noqa: SLF001
        identity, code = rewrite._rewrite_test(test, config)  # noqa: SLF001
        state = config.stash[rewrite.assertstate_key]
        rewrite._write_pyc(state, code, identity, pyc)  # noqa: SLF001


def use_pycache() -> None:
    """Have pytest look for rewritten tests where the host put them.

    PYTHONPYCACHEPREFIX would have Python look there for every other module, too.
    """
    named = os.environ.get(_PYCACHE_VARIABLE)
    if named:
        rewrite.get_cache_dir = lambda file_path: Path(named, *file_path.parts[1:-1])


def _files(config: pytest.Config) -> Iterator[Path]:
    """Yield the files below the directories of the arguments, where pytest would look too."""
    patterns = config.getini("norecursedirs")
    for directory in _directories(config):
        for parent, below, names in os.walk(directory):
            below[:] = [
                name
                for name in below
                if not _is_like(Path(parent, name), patterns)
                and not os.path.exists(f"{parent}/{name}/pyvenv.cfg")
            ]
            yield from (Path(parent, name) for name in names)


def _directories(config: pytest.Config) -> set[Path]:
    return {path if path.is_dir() else path.parent for path in _named(config)}


def _named(config: pytest.Config) -> set[Path]:
    start = config.invocation_params.dir
    paths = {start / argument.partition("::")[0] for argument in config.args}
    # The rest is --pyargs, or an error that a worker will report.
    return {path for path in paths if path.exists()}


def _is_like(path: Path, patterns: Iterable[str]) -> bool:
    # A pattern with a slash is one for the whole path (pytest's fnmatch_ex).
    return any(
        fnmatch.fnmatch(str(path), f"*{pattern}")
        if "/" in pattern
        else fnmatch.fnmatch(path.name, pattern)
        for pattern in patterns
    )
