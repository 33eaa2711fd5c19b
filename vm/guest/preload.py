"""The modules that a guest's Python imports before it is saved: pytest, xdist, pyroute2, others.

A save freezes them, so no tested code is among them. The plugin is imported apart from the rest,
for a guest forgets it if it was edited since the save. pytest's search through its plugins is
shortened. On the host this file runs as a program: it lists the files of these imports, and
compiles them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import marshal
import platform
import sys
import sysconfig
from importlib import machinery, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from types import CodeType

# platformdirs is a plugin of pytest, too, and comes with this project. pyroute2, where it is
# installed, takes seconds to import.
_ROOTS = ("pytest", "pytest-xdist", "platformdirs", "pyroute2")

_MODULES = (
    # For agent.py, worker.py and session.py.
    "ast",
    "fcntl",
    "gc",
    "locale",
    "resource",
    "select",
    "site",
    "termios",
    "types",
    "platformdirs.pytest_plugin",
    "platformdirs.unix",
    # A .pth file of setuptools imports it whenever a Python starts.
    "_distutils_hack",
    # pytest highlights failures.
    "pygments.formatters.terminal",
    "pygments.lexers.diff",
    "pygments.lexers.python",
    "pygments.style",
    "pygments.styles.default",
    "pygments.util",
    # Network devices.
    "pyroute2",
    "pyroute2.netlink.exceptions",
    # Most tests and plugins use these, or Python itself imports them late.
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

# The modules of the plugin that workers and most tests of BPF import.
_PLUGIN = (
    "bpf.attaching.attach",
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

# The modules of the plugin that know pytest's and xdist's insides. Each has MODULES to import,
# PLUGINS among them, and the top-level PACKAGES that they are in.
_PYTEST = "pytest_bpflink.session.pytest_internals"
_XDIST = "pytest_bpflink.session.xdist_worker"

# Further plugins of pytest, and those of this project.
_PLUGINS = ("platformdirs.pytest_plugin",)
_OWN_PLUGINS = ("pytest_bpflink.fixtures", "pytest_bpflink.plugin")

# pytest does not rewrite the assertions of a plugin with this in its docstring. Otherwise it warns
# of plugins that were imported before it, which ends a worker whose warnings are errors.
_DONT_REWRITE = "PYTEST_DONT_REWRITE"


def preload() -> None:
    """Import all modules but those of `_PLUGIN`; a missing module is passed over."""
    insides = _insides()
    for name in (*_MODULES, *(name for each in insides for name in each.MODULES)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    _shorten_search((*_PLUGINS, *(name for each in insides for name in each.PLUGINS)))
    # Each worker of xdist reports the platform, and to find it out runs a program. The uname that
    # is cached with it is dropped, for it has the host name of this guest.
    platform.platform()
    vars(platform)["_uname_cache"] = None
    for name in ("xdist", "execnet", "platformdirs"):
        if name in sys.modules:
            sys.modules[name].__doc__ = _DONT_REWRITE


def _insides() -> list[Any]:
    """Return the modules that know pytest and xdist, as far as they can be imported."""
    found = []
    for name in (_PYTEST, _XDIST):
        # A module may be half edited; the next import of it reports that.
        with contextlib.suppress(Exception):
            found.append(importlib.import_module(name))
    return found


def _shorten_search(plugins: Iterable[str]) -> None:
    if _PYTEST in sys.modules:
        sys.modules[_PYTEST].shorten_search(plugins)


def preload_plugin() -> set[str]:
    """Import the plugin, and return the names of all modules that this imported."""
    before = {name for name in sys.modules if name.partition(".")[0] != "pytest_bpflink"}
    for name in _PLUGIN:
        # A module may be half edited; the next import of it reports that.
        with contextlib.suppress(Exception):
            importlib.import_module(f"pytest_bpflink.{name}")
    brought = sys.modules.keys() - before
    for name in brought:
        if name.startswith("pytest_bpflink"):
            sys.modules[name].__doc__ = _DONT_REWRITE
    _shorten_search(_OWN_PLUGINS)
    return brought


def compile_what_is_sent() -> dict[tuple[str, str], CodeType]:
    """Return the code of the modules that execnet and xdist send as text, by text and file name.

    Compiling them takes a fifth of a worker's time up to its first test.
    """
    compiled = {}
    with contextlib.suppress(KeyError, OSError):
        for text, name in sys.modules[_XDIST].sent_programs():
            compiled[text, name] = compile(text, name, "exec", dont_inherit=True)
    return compiled


def describe() -> dict[str, Any]:
    """Return the files that `preload` and `preload_plugin` load, and the path of the search.

    Also the directory of the standard library, and the tag in the names of compiled modules.
    """
    preload()
    files = _files(_packages())
    libraries = _mapped() - files
    preload_plugin()
    return {
        "path": [path for path in sys.path if path.startswith("/")],
        "files": sorted(files),
        "plugin": sorted(_files({"pytest_bpflink"}) - files),
        "libraries": sorted(libraries),
        "standard": sysconfig.get_path("stdlib"),
        "tag": sys.implementation.cache_tag,
    }


def _files(packages: Collection[str]) -> set[str]:
    """Return the files of the modules of these packages, and of the standard library."""
    files = set()
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    others = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    for name, module in list(sys.modules.items()):
        # A module that is frozen into the interpreter has a file too: Python finds its standard
        # library by os.py.
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
    """Return the file of a module that has put another one in its place; None for other modules.

    collections.abc does so in Python 3.13.0: sys.modules has _collections_abc under its name.
    """
    module, package = sys.modules[name], sys.modules.get(name.rpartition(".")[0])
    spec, path = getattr(module, "__spec__", None), getattr(package, "__path__", None)
    if spec is None or spec.name == name or path is None:
        return None
    found = machinery.PathFinder.find_spec(name, path)
    return found.origin if found else None


def write_code(destination: str, files: Collection[str]) -> None:
    """Write the compiled code of FILES to a zip file, named as Python looks for it.

    Compiling takes most of the time of an import. Files in an image have no times to check a .pyc
    against, so Python is not to check these (PEP 552).
    """
    import zipfile

    sys.dont_write_bytecode, sys.pycache_prefix = True, None
    header = util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    with zipfile.ZipFile(destination, "w") as archive:
        for name, module in list(sys.modules.items()):
            origin = getattr(module, "__file__", None)
            loader = getattr(module, "__loader__", None)
            if origin and origin in files and isinstance(loader, machinery.SourceFileLoader):
                with contextlib.suppress(ImportError):  # __main__, for its loader has another name
                    code = marshal.dumps(loader.get_code(name))
                    # The directory may be a link, as pytest_bpflink/vm is in a checkout.
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
    # If pytest is installed from a checkout, its distribution lists no files.
    names.update(*(module.PACKAGES for module in _insides()))
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
    if not sys.flags.safe_path:
        # Python has put the directory of this file there; no module is to be found in it.
        del sys.path[0]
    described = describe()
    write_code(sys.argv[1], {*described["files"], *described["plugin"]})
    json.dump(described, sys.stdout)
