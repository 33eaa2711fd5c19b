"""Digests of files, and other answers from their content, remembered so that none is read twice.

Knows when a file is unchanged. The caller chooses the files and the questions.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from pytest_bpflink.vm.cache import is_texts, recall
from pytest_bpflink.vm.identity import identity
from pytest_bpflink.vm.whole_file import make_directory, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Answer = TypeVar("Answer", str, list[str])

# A second write within the same tick of the kernel's clock leaves a file's times as they are.
_SETTLED_NS = 1_000_000_000


class Contents:
    """Answers about files, from RECORD. Call `keep` after the last question."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._known = {name: known for name, known in recall(record).items() if _is_known(known)}
        self._changed = False

    def digest(self, path: Path) -> str:
        """Return a digest of a file's content. Raises OSError."""
        return self.ask(path, _digest)

    def ask(self, path: Path, question: Callable[[Path], Answer]) -> Answer:
        """Return QUESTION's answer about a file. Each file must have one question.

        The answer is remembered until the file is replaced or written to. Raises OSError.
        """
        name, now = str(path), identity(path)
        known = self._known.get(name)
        if known and known[0] == now:
            remembered: Answer = known[1]
            return remembered
        settled = time.time_ns() - now[-1] > _SETTLED_NS
        answer = question(path)
        if settled:
            self._known[name] = [now, answer]
            self._changed = True
        return answer

    def keep(self) -> None:
        """Write new answers to RECORD, without files that are gone."""
        if not self._changed:
            return
        here = {name: known for name, known in self._known.items() if os.path.exists(name)}
        # If two processes write at the same time, the answers of one are lost, and asked again.
        with suppress(OSError):
            make_directory(self._record.parent, mode=0o700)
            write_whole(self._record, json.dumps(here).encode())


def _is_known(known: object) -> bool:
    if not isinstance(known, list) or len(known) != 2:
        return False
    return isinstance(known[1], str) or is_texts(known[1])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
