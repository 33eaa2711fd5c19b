"""The files of `--kernel-report`: whether they can be written, and writing them.

Knows paths and disks. What is in a file is the business of the module of its format.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_bpflink.reports import as_html, as_json, as_markdown
from pytest_bpflink.vm.whole_file import beside, replacing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_bpflink.reports.results import Run

# By the endings that `kernel_options` takes.
_FORMATS: Final[dict[str, Callable[[Run], str]]] = {
    ".html": as_html.render,
    ".md": as_markdown.render,
    ".json": as_json.render,
}


class Unwritable(Exception):  # noqa: N818 (reads as what it is of a file)
    """A report can't be written; the message says why."""


def checked(values: Iterable[str], directory: Path) -> list[Path]:
    """Return the files to write, once each, by paths that hold whatever tests do.

    Raises Unwritable if one can't be written where it is to be.
    """
    paths = list(dict.fromkeys((directory / Path(value).expanduser()) for value in values))
    for path in paths:
        try:
            _try(path)
        except OSError as error:
            raise Unwritable(f"{path} can't be written: {_why(path, error)}") from None
    return paths


def write(run: Run, path: Path) -> None:
    """Write a report, whole or not at all. Raises Unwritable; a file that was there stays then."""
    content = _FORMATS[path.suffix](run)
    try:
        if _is_written_through(path):
            path.write_text(content, encoding="utf-8")
            return
        # A symbolic link stays one.
        with replacing(path.resolve()) as new, new.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # also a disk that finds out later that it is full
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
    """Whether it is there and no file that could be replaced, but a device or a pipe."""
    return path.exists() and not path.is_file()


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no directory {path.resolve().parent}; make it first"
    return error.strerror or str(error)
