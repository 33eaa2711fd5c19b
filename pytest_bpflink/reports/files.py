"""The files of `--kernel-report`: whether they can be written, and writing them.

Knows paths and disks. The module of each format makes the content.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from pytest_bpflink.reports import as_html, as_json, as_markdown
from pytest_bpflink.vm.whole_file import beside, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pytest_bpflink.reports.results import Run

# By ending; the option takes those in REPORT_ENDINGS of session/options.py.
_FORMATS: Final[dict[str, Callable[[Run], str]]] = {
    ".html": as_html.render,
    ".md": as_markdown.render,
    ".json": as_json.render,
}


class Unwritable(Exception):  # noqa: N818 - named for the file's state
    """A report can't be written; the message says why."""


def checked(values: Iterable[str], directory: Path) -> list[Path]:
    """Return the files to write, each once; absolute, since tests may change the directory.

    Raises Unwritable if one can't be written.
    """
    paths = list(dict.fromkeys((directory / os.path.expanduser(value)) for value in values))
    for path in paths:
        try:
            _try(path)
        except OSError as error:
            raise Unwritable(f"{path} can't be written: {_why(path, error)}") from None
    return paths


def write(run: Run, path: Path) -> None:
    """Write a report, whole or not at all. Raises Unwritable; then an older file stays."""
    content = _FORMATS[path.suffix](run)
    try:
        if _is_written_through(path):
            path.write_text(content, encoding="utf-8")
            return
        # resolve(): a symbolic link stays one.
        with replacing(path.resolve()) as new, new.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # some disks report only here that they are full
    except OSError as error:
        raise Unwritable(f"{path} was not written: {_why(path, error)}") from None


def _try(path: Path) -> None:
    """Raise OSError unless a file can be made there."""
    if path.is_dir():
        raise IsADirectoryError(None, "it is a directory")
    if _is_written_through(path):
        with path.open("ab"):
            return
    new = beside(path.resolve())
    new.touch(exist_ok=False)
    new.unlink()


def _is_written_through(path: Path) -> bool:
    """Whether the path is a device or a pipe, which can't be replaced by a new file."""
    return path.exists() and not path.is_file()


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no directory {path.resolve().parent}; make it first"
    return error.strerror or str(error)
