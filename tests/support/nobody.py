"""Runs programs as a user who is nobody here, and who can read the Python that these tests have."""

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
    """Run it to its end, and return what it wrote and its exit status."""
    # That of these tests, and the one that its virtual environment was made from.
    with _in_sight({Path(sys.prefix), Path(sys.base_prefix)}) as prefix:
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
def _in_sight(paths: set[Path]) -> Iterator[list[str]]:
    """Give what starts a command as nobody, with these directories open to that user.

    Root's Python may be below root's home, which is root's alone: for this command there is another
    directory in its place, with these in it and nothing else.
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
    """Return the outermost directory above a path that others can't go through."""
    for above in reversed(path.parents):
        if not above.stat().st_mode & stat.S_IXOTH:
            return above
    return None
