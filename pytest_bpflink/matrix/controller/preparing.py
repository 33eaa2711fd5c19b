"""Files that the host makes once, since each guest would make them again, and slowly.

BPF programs are compiled before guests start. Tests and this plugin's modules are rewritten, as
pytest does, while guests boot. Programs and tests are searched for below the directories of
pytest's arguments, since xdist's controller collects nothing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.building import compilation
from pytest_bpflink.matrix.controller import named_programs
from pytest_bpflink.session import pytest_internals
from pytest_bpflink.session.options import PROGRAMS_OPTION
from pytest_bpflink.vm.cache import cache_part_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


def files_of(config: pytest.Config) -> list[Path]:
    """Return all files below the directories of pytest's arguments, tests and programs included."""
    return sorted(set(_files(config)))


def prepare(
    config: pytest.Config, files: Sequence[Path], progress: Callable[[str], None]
) -> list[Path]:
    """Compile the BPF programs that collected tests among FILES can name; return their sources.

    Guests ask for what is missing. Environment variables lead guests to the results and to the
    directory of rewritten modules.
    """
    if sys.dont_write_bytecode:
        os.environ[pytest_internals.PYCACHE] = str(cache_part_whole("pycache"))
        pytest_internals.use_pycache()
    directories = map(Path, config.getini(PROGRAMS_OPTION))
    found = (*files, *(file for directory in directories for file in directory.rglob("*")))
    texts = named_programs.texts_of(_collected(config, files), files)
    sources = named_programs.among(found, texts)
    compilation.prepare(sources, before_each=lambda each: progress(f"compiling {each.name}"))
    return sources


def rewrite_tests(config: pytest.Config, files: Iterable[Path]) -> None:
    """Rewrite tests and this plugin's modules, where they are not rewritten yet."""
    if config.option.assertmode == "rewrite":
        patterns = ["conftest.py", *config.getini("python_files")]
        named = _named(config)
        tests = [file for file in files if file in named or _is_like(file, patterns)]
        tests = [file for file in tests if file.suffix == ".py"]
        pytest_internals.rewrite_modules(config, (*tests, *_own_modules()))


def _collected(config: pytest.Config, files: Sequence[Path]) -> list[Path]:
    """Return the modules of tests that pytest's arguments name, and their conftest files."""
    named = _named(config)
    modules = [
        file
        for file in files
        if (file.suffix == ".py" and any(map(file.is_relative_to, named))) or file in named
    ]
    parents = {parent for path in named for parent in path.parents}
    conftests = [parent / "conftest.py" for parent in parents]
    return [*modules, *(file for file in conftests if file.is_file())]


def refuse_unsent(config: pytest.Config, kernels: Sequence[str]) -> None:
    """Raise UsageError for tests that guests of these KERNELS, which are packed, would not have."""
    from pytest_bpflink.matrix.guests.virtual_machines import project_of

    project = project_of(config)
    packages = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    for path in _named(config):
        if not any(path.is_relative_to(tree) for tree in (project, *packages)):
            raise pytest.UsageError(
                f"--kernel {kernels[0]}: this kernel has no 9p, so that its guests get a copy of"
                f" {project}, and {path} is not in it; give pytest a rootdir that has all tests"
                " (--rootdir, or a pytest.ini above them)"
            )


def _files(config: pytest.Config) -> Iterator[Path]:
    """Yield the files below the arguments' directories, without directories that pytest skips."""
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


def _own_modules() -> Iterator[Path]:
    """Yield this plugin's modules: pytest rewrites the modules of every plugin."""
    for parent, _, names in os.walk(Path(__file__).parents[2], followlinks=True):
        yield from (Path(parent, name) for name in names if name.endswith(".py"))


def _directories(config: pytest.Config) -> set[Path]:
    return {path if path.is_dir() else path.parent for path in _named(config)}


def _named(config: pytest.Config) -> set[Path]:
    start = config.invocation_params.dir
    names = {argument.partition("::")[0] for argument in config.args}
    modules = set().union(*map(_module_paths, names)) if config.option.pyargs else set()
    # A worker reports the names that do not exist.
    return {path for name in names if (path := start / name).exists()} | modules


def _module_paths(name: str) -> set[Path]:
    """Return the paths of a module or a package that --pyargs names."""
    # ValueError: the name is no module's, but a path as a rule.
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            return {Path(location) for location in spec.submodule_search_locations}
        if spec and spec.origin:
            return {Path(spec.origin)}
    return set()


def _is_like(path: Path, patterns: Iterable[str]) -> bool:
    # A pattern with a slash is matched with the whole path (pytest's fnmatch_ex).
    return any(
        fnmatch.fnmatch(str(path), f"*{pattern}")
        if "/" in pattern
        else fnmatch.fnmatch(path.name, pattern)
        for pattern in patterns
    )
