"""Files that others see whole or not at all, and never half written."""

from __future__ import annotations

import contextlib
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def beside(file: Path) -> Path:
    """Return a path beside FILE, for a new file of this writer alone."""
    return file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(2)}")


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a path beside FILE to write to.

    What was written there replaces FILE, or is removed if the block raises an exception.
    """
    new = beside(file)
    try:
        yield new
        new.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def write_whole(file: Path, content: bytes) -> None:
    """Write a file, and make its directory. Raises OSError; a file that was there stays then."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as new:
        new.write_bytes(content)
