"""The files of a host's Python that a guest needs, and their compiled code.

They are listed by that Python itself, which runs `guest/preload.py` on the host. `guest_image`
makes an image of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Any

from pytest_bpflink.vm import guest
from pytest_bpflink.vm.cache import is_texts, is_trusted, recall, writable
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.whole_file import make_directory, replacing, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PRELOAD = guest.DIRECTORY / "preload.py"

_UNUSED_SECONDS = 30 * 86400.0

# The variables that Python reads only at its start; the worker sets all others, from the letter.
# PYTHONHASHSEED is none of them: tox chooses one for each run, and each would need another save.
_STARTUP_VARIABLES = (
    "PYTHONDEVMODE",
    "PYTHONFAULTHANDLER",
    "PYTHONHOME",
    "PYTHONINTMAXSTRDIGITS",
    "PYTHONIOENCODING",
    "PYTHONMALLOC",
    "PYTHONNOUSERSITE",
    "PYTHONOPTIMIZE",
    "PYTHONPROFILEIMPORTTIME",
    "PYTHONSAFEPATH",
    "PYTHONTRACEMALLOC",
    "PYTHONUTF8",
    "PYTHONWARNINGS",
)


class ImageError(Exception):
    """No image can be made for this kernel or this Python; the message says why."""


@dataclass(frozen=True)
class Inventory:
    """A Python of the host, and the files that a guest needs of it.

    `standard` is the directory of its standard library, `tag` is in the names of compiled modules.
    `code` is a zip file with their compiled code, under the names by which Python finds it.
    `code_digest` is the digest of that file. `digest` is a digest of the files' content without the
    plugin's: if the plugin has changed since the save, the guest imports it anew.
    """

    python: str
    startup: Mapping[str, str]
    path: tuple[str, ...]
    files: tuple[str, ...]
    plugin: tuple[str, ...]
    libraries: tuple[str, ...]
    standard: str
    tag: str
    code: Path
    code_digest: str
    digest: str

    @property
    def plugin_place(self) -> str:
        """Where this Python finds the plugin; empty where it does not."""
        return next((path for path in self.plugin if path.endswith("pytest_bpflink/plugin.py")), "")

    @property
    def has_this_plugin(self) -> bool:
        """Whether the plugin that this Python finds is the one that runs here."""
        return self.plugin_place == str(Path(__file__).parents[2] / "plugin.py")

    @property
    def has_installed_plugin(self) -> bool:
        """Whether the plugin is in site-packages, where it is replaced and not edited."""
        return bool(re.search("/(site|dist)-packages/", self.plugin_place))

    def directories(self) -> dict[str, tuple[int, int, int]]:
        """Return the directories above the libraries, with mode, owner and group of each."""
        found = {}
        for parent in sorted({parent for path in self.libraries for parent in Path(path).parents}):
            stat = os.stat(parent)
            found[str(parent)] = (S_IMODE(stat.st_mode), stat.st_uid, stat.st_gid)
        return found

    def plugin_directories(self) -> list[str]:
        """Return the directories of the plugin's files, without links."""
        return sorted({os.path.realpath(os.path.dirname(path)) for path in self.plugin})

    @property
    def sites(self) -> list[str]:
        """The directories of `path` that have packages: not those of the standard library."""
        archive = f"python{self.tag.removeprefix('cpython-')}.zip"
        return [
            entry
            for entry in self.path
            if entry not in {self.standard, f"{self.standard}/lib-dynload"}
            and os.path.basename(entry) != archive
        ]

    @property
    def packages(self) -> list[str]:
        """Those of `files` that a Python of another architecture can load, too."""
        return [file for file in self.files if file.endswith(".py") and not self.is_standard(file)]

    def is_standard(self, file: str) -> bool:
        """Whether a file is one of the standard library's."""
        inside = file.removeprefix(f"{self.standard}/")
        return inside != file and not inside.startswith(("site-packages/", "dist-packages/"))

    @property
    def environment(self) -> Path | None:
        """The directory of the virtual environment that this Python is of; None for none."""
        above = Path(self.python).parent.parent
        return above if (above / "pyvenv.cfg").exists() else None

    def plugin_digest(self) -> str:
        """Return a digest of the present content of the plugin's files."""
        return _digest(self.plugin)


def take(
    python: str,
    environment: Mapping[str, str],
    *,
    cache: Path,
    cwd: Path = Path("/"),
    anew: bool = False,
) -> Inventory:
    """Return the files of a Python for guests; CACHE remembers them until one of them changes.

    PYTHONPATH may have paths that are relative to CWD. With ANEW the files are listed and compiled
    again. A temporary directory takes the place of a CACHE that can't be written. Raises ImageError
    if this Python has no pytest or does not run.
    """
    startup = {name: environment[name] for name in _STARTUP_VARIABLES if name in environment}
    entries = environment.get("PYTHONPATH", "")
    path = os.pathsep.join(str(cwd / entry) for entry in entries.split(os.pathsep) if entries)
    # The list depends on the imports in preload.py.
    asked = [python, startup, path, _PRELOAD.read_text()]
    name = f"python-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}"

    def recall_from(directory: Path) -> dict[str, Any] | None:
        return None if anew else _recall(directory / f"{name}.json", directory / f"{name}.zip")

    cache = writable(cache, unless=recall_from)
    record, code = cache / f"{name}.json", cache / f"{name}.zip"
    known = recall_from(cache)
    if known is None:
        make_directory(cache, mode=0o700)
        _forget_unused(cache)
        known = _describe(python, {**environment, "PYTHONPATH": path}, code)
        write_whole(record, json.dumps(known).encode())
    return Inventory(
        python=python,
        startup=startup,
        path=tuple(known["path"]),
        files=tuple(known["files"]),
        plugin=tuple(known["plugin"]),
        libraries=tuple(known["libraries"]),
        standard=known["standard"],
        tag=known["tag"],
        code=code,
        code_digest=known["code"],
        digest=known["digests"]["frozen"],
    )


def _recall(record: Path, code: Path) -> dict[str, Any] | None:
    """Return the description in RECORD, unless it is damaged or a file has changed."""
    known = recall(record)
    if not (_is_description(known) and os.path.isfile(code) and is_trusted(code)):
        return None
    try:
        stats = _stats(known)
        if known["stats"] != stats:
            # The files may have been installed anew, as on CI: compare their content.
            if known["digests"] != _digests(known):
                return None
            with contextlib.suppress(OSError):
                write_whole(record, json.dumps(known | {"stats": stats}).encode())
    except (OSError, ValueError, LookupError, TypeError):
        return None
    # `_forget_unused` takes this for the time of the last use.
    with contextlib.suppress(OSError):  # of a cache that this user can only read
        for file in (record, code):
            os.utime(file)
    return known


def _is_description(known: Mapping[str, Any]) -> bool:
    lists = ("path", "files", "plugin", "libraries")
    digests = known.get("digests")
    return (
        all(is_texts(known.get(name)) for name in lists)
        and isinstance(digests, dict)
        and is_texts([digests.get("frozen"), digests.get("plugin")])
        and is_texts([known.get(name) for name in ("code", "standard", "tag")])
    )


def _forget_unused(cache: Path) -> None:
    for file in (*cache.glob("*python-*"), *cache.glob("*machine-*")):
        with contextlib.suppress(FileNotFoundError):  # by another run
            if time.time() - file.stat().st_mtime > _UNUSED_SECONDS:
                file.unlink()


def _describe(python: str, environment: Mapping[str, str], code: Path) -> dict[str, Any]:
    with replacing(code) as new:
        done = subprocess.run(
            [python, str(_PRELOAD), str(new)],
            env=dict(environment),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = next(iter(done.stderr.strip().splitlines()[-1:]), "it said nothing")
            raise ImageError(f"{python} can't list the files that a guest needs: {last}")
        described: dict[str, Any] = json.loads(done.stdout)
    if not any(path.endswith("/pytest/__init__.py") for path in described["files"]):
        raise ImageError(f"{python} has no pytest of its own (in a zip file, perhaps)")
    packed = hashlib.sha256(code.read_bytes()).hexdigest()
    digests = _digests(described)
    return {**described, "stats": _stats(described), "digests": digests, "code": packed}


def _stats(described: Mapping[str, list[str]]) -> list[list[int]]:
    kinds = ("files", "plugin", "libraries")
    return [identity(path) for kind in kinds for path in described[kind]]


def _digests(described: Mapping[str, list[str]]) -> dict[str, str]:
    """Return a digest of the files that a save freezes, and one of the plugin's."""
    frozen = [*described["files"], *described["libraries"]]
    return {"frozen": _digest(frozen), "plugin": _digest(described["plugin"])}


def _digest(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        size = str(os.stat(path).st_size).encode()
        digest.update(b"\0".join([os.fsencode(path), size, Path(path).read_bytes()]))
    return digest.hexdigest()
