"""The Python in our own guests: it becomes execnet's worker, or runs a user's command.

A child of the `agent`, and saved with it. It imports the modules that `preload` names, and waits
for the letter. Before it gets the letter the agent sets up the guest; this module sets up the
process: directory, limits, streams, environment.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import importlib
import json
import locale
import os
import random
import resource
import site
import struct
import sys
import time
import types
from importlib import machinery, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_bpflink.vm.guest import preload, session
else:
    # Beside it in the image.
    import preload
    import session

Compiled = dict[tuple[str, str], types.CodeType]

# The line that the host waits for.
READY = b"bpflink: guest ready\n"

# The length of the letter, which precedes it.
_LENGTH = struct.Struct("!Q")


def main(
    from_parent: int, to_parent: int, ports: Sequence[int], settings: Mapping[str, Any]
) -> None:
    """Import, report it to the agent, wait for the letter, and run the program that it names."""
    own_path = sys.path[1:]
    sys.path[:] = [*settings["path"], *own_path]
    preload.preload()
    plugin = preload.preload_plugin()
    compiled = preload.compile_what_is_sent()
    sys.path[:] = own_path
    for name in ("mounts", "preload", "session", "worker"):
        del sys.modules[name]
    gc.collect()
    gc.freeze()
    gc.enable()
    proc = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    os.write(to_parent, b".")
    os.close(to_parent)
    letter = receive(from_parent)
    os.close(from_parent)
    # PID 1 has changed to another root, and moved /proc there.
    os.fchdir(proc)
    os.chroot("1/root")
    os.close(proc)
    _take_over(letter, ports)
    if letter["session"]:
        session.run(**letter["session"], environment=letter["environment"])
        return
    if letter["plugin"] != settings["plugin"]:
        # It was edited since the save, or the host runs another one.
        _forget(plugin)
    _be_just_started(letter["environment"])
    if letter["host"]:
        _use_packages_of_another_machine(letter["host"]["sites"])
    _know_entry_points(letter["entry_points"])
    _run(letter["program"], compiled)


def send(letter: Mapping[str, Any], descriptor: int) -> None:
    """Write a letter."""
    contents = json.dumps(letter).encode()
    with open(descriptor, "wb") as pipe:
        pipe.write(_LENGTH.pack(len(contents)) + contents)


def receive(descriptor: int) -> dict[str, Any]:
    """Read a letter, and no byte more: the bytes after it are for execnet."""
    letter: dict[str, Any] = json.loads(_read(descriptor, *_LENGTH.unpack(_read(descriptor, 8))))
    return letter


def _read(descriptor: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        data += os.read(descriptor, length - len(data))
    return data


def _take_over(letter: Mapping[str, Any], ports: Iterable[int]) -> None:
    """Set directory, umask and limits from the letter, and make PORTS the standard streams."""
    os.setsid()
    os.chdir("/")
    with contextlib.suppress(OSError):
        os.chdir(letter["cwd"])
    os.umask(letter["umask"])
    for name, limits in letter["limits"].items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), limits)
    # Before Linux 5.11 BPF maps and programs count against this limit.
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    for descriptor, port in enumerate(ports):
        os.dup2(port, descriptor)
    os.write(1, READY)


def _forget(modules: Iterable[str]) -> None:
    for name in modules:
        sys.modules.pop(name, None)


def _be_just_started(environment: dict[str, str]) -> None:
    """Set all that Python sets at its start: environment, time zone, locale, path, random seed."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")
    _find_packages_again(environment.get("PYTHONPATH", ""))
    random.seed()


def _find_packages_again(python_path: str) -> None:
    """Look for packages in the host's root: .pth files, user's packages, PYTHONPATH."""
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX") or None
    site.ENABLE_USER_SITE = site.USER_SITE = site.USER_BASE = None
    # An empty entry is the working directory.
    before = python_path.split(os.pathsep) if python_path else []
    sys.path[:] = [*map(os.path.abspath, before), *sys.path]
    site.main()
    if not sys.flags.safe_path:
        # `python -c` has this.
        sys.path.insert(0, "")


def _use_packages_of_another_machine(sites: Iterable[str]) -> None:
    """Find the host's packages in SITES, and say why its extension modules can't be imported."""
    for directory in sites:
        if directory not in sys.path:
            site.addsitedir(directory)
    # Modules whose names say nothing of a machine are the host's, too: x.so, x.abi3.so.
    sys.path_hooks[-1] = machinery.FileFinder.path_hook(
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES[:1]),
        (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
        (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
    )
    sys.path_importer_cache.clear()
    explainer: Any = _OfAnotherMachine
    sys.meta_path.append(explainer)


class _OfAnotherMachine:
    """Finds no module, but says so if there is an extension module for another machine."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        del target
        begins = name.rpartition(".")[2] + "."
        for directory in sys.path if path is None else path:
            with contextlib.suppress(OSError):
                for file in os.listdir(directory or "."):
                    if file.startswith(begins) and file.endswith(".so"):
                        raise ModuleNotFoundError(
                            f"{directory}/{file} is compiled for the host, and this guest is"
                            f" {os.uname().machine}: of the host's packages it can import modules"
                            " in Python only",
                            name=name,
                        )


def _know_entry_points(known: Mapping[str, str | None]) -> None:
    """Have importlib.metadata return the entry points that the host has read.

    pytest reads all of them twice, and over 9p each takes a millisecond. Those of distributions
    that the guest installs are read there; the host's are taken not to change while the guest runs.
    """
    of_directory: Any = metadata.PathDistribution
    parse, read_text = of_directory.entry_points.fget, of_directory.read_text
    parsed: dict[str, metadata.EntryPoints] = {}

    def text(distribution: Any, name: str) -> Any:
        path = str(distribution._path)  # noqa: SLF001
        if name == "entry_points.txt" and path in known:
            return known[path]
        return read_text(distribution, name)

    def entry_points(distribution: Any) -> Any:
        path = str(distribution._path)  # noqa: SLF001
        if path not in known:
            return parse(distribution)
        if path not in parsed:
            parsed[path] = parse(distribution)
        return parsed[path]

    of_directory.read_text = text
    of_directory.entry_points = property(entry_points)


def _run(program: str, compiled: Compiled) -> None:
    """Run execnet's program as `python -u -c` does."""
    # Python sets both names of each; faulthandler looks for them.
    streams: Any = sys
    streams.stdin = streams.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    streams.stdout = streams.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    streams.stderr = streams.__stderr__ = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["-c"]
    sys.orig_argv = [sys.executable, "-u", "-c", program]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    _run_what_is_sent(main.__dict__, compiled)


def _run_what_is_sent(namespace: dict[str, Any], compiled: Compiled) -> None:
    """Run execnet's program, exec(eval(sys.stdin.readline())), with the code in COMPILED.

    execnet sends the text of its module with a few lines after it. This module in turn compiles the
    text of xdist's, by `compile_`.
    """

    def compile_(source: Any, name: Any, *arguments: Any, **options: Any) -> Any:
        return compiled.get((source, name)) or compile(source, name, *arguments, **options)

    source = ast.literal_eval(sys.stdin.readline())
    for (text, name), code in compiled.items():
        if name == "<string>" and source.startswith(text):
            namespace["compile"] = compile_
            exec(code, namespace)  # noqa: S102
            source = source.removeprefix(text)
    exec(compile(source, "<string>", "exec", dont_inherit=True), namespace)  # noqa: S102
