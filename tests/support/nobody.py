"""Runs programs as the user nobody, who can then read the Python of these tests."""

from __future__ import annotations

import contextlib
import shlex
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534

_SECONDS = 600.0


def run_as_nobody(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return its output and its exit status."""
    # The virtual environment of these tests, and the Python that it was made from.
    with _as_nobody({Path(sys.prefix), Path(sys.base_prefix)}) as prefix:
        return subprocess.run(
            [*prefix, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_SECONDS,
            **options,
        )


@contextlib.contextmanager
def _as_nobody(paths: set[Path]) -> Iterator[list[str]]:
    """Return the words to put before a command, so that nobody runs it and can read PATHS.

    Root's Python may be below root's home, which only root can enter. The command sees an empty
    directory in its place, with PATHS mounted in it.
    """
    hidden = {path: closed for path in paths if (closed := _closed(path))}
    with tempfile.TemporaryDirectory() as directory:
        kept = {path: Path(directory, str(number)) for number, path in enumerate(hidden)}
        script: list[list[object]] = [
            ["set", "-e"],
            *(["mkdir", at] for at in kept.values()),
            *(["mount", "--bind", path, at] for path, at in kept.items()),
            *(["mount", "-t", "tmpfs", "-o", "mode=755", "none", at] for at in {*hidden.values()}),
            *(["mkdir", "-p", path] for path in kept),
            *(["mount", "--bind", at, path] for path, at in kept.items()),
        ]
        lines = [shlex.join(map(str, line)) for line in script]
        become = f'exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- "$@"'
        yield ["unshare", "--mount", "sh", "-c", "\n".join([*lines, become]), "sh"]


def _closed(path: Path) -> Path | None:
    """Return the outermost directory above a path that other users can't enter."""
    for above in reversed(path.parents):
        if not above.stat().st_mode & stat.S_IXOTH:
            return above
    return None
