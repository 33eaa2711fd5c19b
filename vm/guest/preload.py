"""What a guest's Python imports before it is saved: pytest, xdist, pyroute2, and what they need.

Frozen in the save: never what is tested. The plugin is there too, apart from the rest, to be left
out where it was edited since; and what pytest would look for in its own plugins is known by then.
Runs on the host too, as a program, to tell what files these imports take, and to compile them; that
is what the guest's image is made of.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import marshal
import platform
import sys
import sysconfig
from importlib import machinery, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from types import CodeType

# platformdirs is a plugin of pytest, too, and comes with this project. pyroute2, where it is
# installed, takes seconds to import.
_ROOTS = ("pytest", "pytest-xdist", "platformdirs", "pyroute2")

_MODULES = (
    # For the agent, its worker, and what runs a command.
    "ast",
    "fcntl",
    "gc",
    "locale",
    "resource",
    "select",
    "site",
    "termios",
    "types",
    "pytest",
    "_pytest._argcomplete",
    "_pytest.assertion.rewrite",
    "_pytest.assertion.truncate",
    "_pytest.assertion.util",
    "_pytest.fixtures",
    "_pytest.pathlib",
    "_pytest.python",
    "execnet.gateway",
    "execnet.gateway_base",
    "xdist.looponfail",
    "xdist.newhooks",
    "xdist.plugin",
    "xdist.remote",
    "platformdirs.pytest_plugin",
    "platformdirs.unix",
    # A .pth file of setuptools imports it whenever a Python starts.
    "_distutils_hack",
    # To show failures, they are highlighted.
    "pygments.formatters.terminal",
    "pygments.lexers.diff",
    "pygments.lexers.python",
    "pygments.style",
    "pygments.styles.default",
    "pygments.util",
    # Network devices.
    "pyroute2",
    "pyroute2.netlink.exceptions",
    # What most tests and plugins use, and what Python itself imports late.
    "cmd",
    "code",
    "concurrent.futures",
    "ctypes",
    "ctypes.util",
    "difflib",
    "email.parser",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.unicode_escape",
    "faulthandler",
    "getpass",
    "importlib.metadata",
    "importlib.resources",
    "inspect",
    "json",
    "logging.handlers",
    "multiprocessing",
    "pdb",
    "pickle",
    "pprint",
    "queue",
    "random",
    "readline",
    "secrets",
    "shutil",
    "signal",
    "socket",
    "statistics",
    "string",
    "subprocess",
    "tempfile",
    "threading",
    "timeit",
    "traceback",
    "typing",
    "unittest",
    "uuid",
    "zipfile",
)

# What a worker imports of the plugin, and most tests of BPF.
_PLUGIN = (
    "bpf.attach",
    "ledger.bpf_ledger",
    "features.probing",
    "fixtures",
    "matrix.worker.worker",
    "plugin",
    "matrix.port_relay",
    "session.requirements",
    "matrix.worker.taint",
    "session.watching",
)

# Plugins of pytest whose names pytest looks through; its default plugins come on top.
_SEARCHED = (
    "platformdirs.pytest_plugin",
    "xdist.looponfail",
    "xdist.plugin",
)
_SEARCHED_OF_PLUGIN = ("pytest_bpflink.fixtures", "pytest_bpflink.plugin")

# pytest warns of plugins that were imported before it, since it can't rewrite their assertions any
# more: which is the end of a worker whose warnings are errors.
_DONT_REWRITE = "PYTEST_DONT_REWRITE"

# The type of a fixture, as pytest names it.
_FIXTURE = "FixtureFunctionDefinition"


def preload() -> None:
    """Import it all; what is not there is left to the time when it is needed."""
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError, AttributeError):
        from _pytest import config

        for plugin in config.default_plugins:
            with contextlib.suppress(ImportError):
                importlib.import_module(f"_pytest.{plugin}")
        _shorten_search(f"_pytest.{plugin}" for plugin in config.default_plugins)
    _shorten_search(_SEARCHED)
    # Each worker of xdist tells it, and finding it out runs a program. What else is found out with
    # it is of this guest and no other: its name.
    platform.platform()
    vars(platform)["_uname_cache"] = None
    for name in ("xdist", "execnet", "platformdirs"):
        if name in sys.modules:
            sys.modules[name].__doc__ = _DONT_REWRITE


def _shorten_search(plugins: Iterable[str]) -> None:
    """Have these plugins of pytest name just what it looks for: hooks and fixtures.

    It goes through all names of a module twice, when the plugin is registered and when its fixtures
    are found, which takes a tenth of the time up to the first test.
    """
    for plugin in plugins:
        module = sys.modules.get(plugin)
        if module and "__dir__" not in vars(module):
            names = [
                name
                for name, value in vars(module).items()
                if name.startswith("pytest_") or type(value).__name__ == _FIXTURE
            ]
            vars(module)["__dir__"] = _answering_twice(vars(module), names)


def _answering_twice(namespace: dict[str, object], names: list[str]) -> Callable[[], list[str]]:
    """Return what dir() asks; whoever asks for the third time is told all, as of any module."""
    answers = [names, names]

    def answer() -> list[str]:
        if len(answers) == 1:
            del namespace["__dir__"]
        return answers.pop()

    return answer


def preload_plugin() -> set[str]:
    """Import the plugin, and return the names of all modules that this has brought."""
    before = set(sys.modules)
    for name in _PLUGIN:
        # It may be in the midst of being edited; whoever imports it again will tell.
        with contextlib.suppress(Exception):
            importlib.import_module(f"pytest_bpflink.{name}")
    brought = sys.modules.keys() - before
    for name in brought:
        if name.startswith("pytest_bpflink"):
            sys.modules[name].__doc__ = _DONT_REWRITE
    _shorten_search(_SEARCHED_OF_PLUGIN)
    return brought


def compile_what_is_sent() -> dict[tuple[str, str], CodeType]:
    """Return the code of the modules that execnet and xdist send as text, by text and file name.

    To compile them takes a fifth of the time that a worker takes up to its first test.
    """
    compiled = {}
    with contextlib.suppress(ImportError, OSError):
        from execnet import gateway_base
        from xdist import remote

        # As execnet 2.1 has them: gateway_bootstrap.bootstrap_exec, gateway_base.executetask.
        sent = [
            (inspect.getsource(gateway_base), "<string>"),
            (inspect.getsource(remote) + "\n", str(remote.__file__)),
        ]
        for text, name in sent:
            compiled[text, name] = compile(text, name, "exec", dont_inherit=True)
    return compiled


def describe() -> dict[str, list[str]]:
    """Return the files that this process loads for both, and where it looks for them."""
    preload()
    files = _files(_packages())
    libraries = _mapped() - files
    preload_plugin()
    return {
        "path": [path for path in sys.path if path.startswith("/")],
        "files": sorted(files),
        "plugin": sorted(_files({"pytest_bpflink"}) - files),
        "libraries": sorted(libraries),
    }


def _files(packages: Collection[str]) -> set[str]:
    """Return the files of the modules of these packages, and of the standard library."""
    files = set()
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    others = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    for name, module in list(sys.modules.items()):
        # A module that is frozen into the interpreter has one too: os.py is what Python finds its
        # standard library by.
        origin = getattr(module, "__file__", None)
        if not origin:
            continue
        top = name.partition(".")[0]
        standard = origin.startswith(libraries) and not origin.startswith(others)
        if top not in packages and (not standard or top not in sys.stdlib_module_names):
            continue
        files |= {file for file in (origin, _replaced(name)) if file and Path(file).is_file()}
    return files


def _replaced(name: str) -> str | None:
    """Return the file of a module that has put another one in its place; None for the others.

    As collections.abc does in Python 3.13.0: what is found by its name is _collections_abc.
    """
    module, package = sys.modules[name], sys.modules.get(name.rpartition(".")[0])
    spec, path = getattr(module, "__spec__", None), getattr(package, "__path__", None)
    if spec is None or spec.name == name or path is None:
        return None
    found = machinery.PathFinder.find_spec(name, path)
    return found.origin if found else None


def write_code(destination: str, files: Collection[str]) -> None:
    """Write the compiled code of FILES to a zip file, named as Python looks for it.

    In an image a source has no time that its .pyc could be checked against, and compiling takes
    most of the time of an import. So these are not to be checked (PEP 552).
    """
    import zipfile

    sys.dont_write_bytecode, sys.pycache_prefix = True, None
    header = util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    with zipfile.ZipFile(destination, "w") as archive:
        for name, module in list(sys.modules.items()):
            origin = getattr(module, "__file__", None)
            loader = getattr(module, "__loader__", None)
            if origin and origin in files and isinstance(loader, machinery.SourceFileLoader):
                with contextlib.suppress(ImportError):  # __main__, which is named otherwise
                    code = marshal.dumps(loader.get_code(name))
                    # The directory may be a link, as those are through which the plugin has parts
                    # of it.
                    source = Path(origin).parent.resolve() / Path(origin).name
                    archive.writestr(util.cache_from_source(source), header + code)


def _packages() -> set[str]:
    """Return the top-level names of pytest's and xdist's distributions, and of all they require."""
    wanted, seen, names = list(_ROOTS), set(), set()
    while wanted:
        distribution = wanted.pop()
        if distribution in seen:
            continue
        seen.add(distribution)
        try:
            found = metadata.distribution(distribution)
        except metadata.PackageNotFoundError:
            continue
        required = [text for text in found.requires or () if "extra ==" not in text]
        wanted.extend(_name_of(requirement) for requirement in required)
        for file in found.files or ():
            top = file.parts[0]
            if file.suffix in {".py", ".so"} and not top.startswith("."):
                names.add(top.removesuffix(".py").partition(".")[0])
    # Where pytest lies in a checkout, its distribution lists no files.
    names |= {"pytest", "_pytest", "pluggy", "iniconfig", "packaging", "xdist", "execnet"}
    return names | {"platformdirs", "_distutils_hack"}


def _name_of(requirement: str) -> str:
    end = next(
        (at for at, char in enumerate(requirement) if not (char.isalnum() or char in "-_.")),
        len(requirement),
    )
    return requirement[:end]


def _mapped() -> set[str]:
    """Return the executable and the shared libraries of this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {line.split(maxsplit=5)[5] for line in lines if line.count("/")}
    return {path for path in mapped if path.startswith("/") and Path(path).is_file()}


if __name__ == "__main__":
    # The directory of this file is none of the interpreter's.
    del sys.path[0]
    described = describe()
    write_code(sys.argv[1], {*described["files"], *described["plugin"]})
    json.dump(described, sys.stdout)
