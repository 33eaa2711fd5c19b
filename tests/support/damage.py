"""Damages of files that a cache keeps: what a test writes in place of their content."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DAMAGES = {
    "empty": b"",
    "zeros": bytes(4096),
    "binary": bytes(range(256)),
    "list": b"[]",
    "object": b"{}",
    "text": b'"text"',
    "null": b"null",
    "nested": b"[" * 100_000,
}


def damaged(file: Path) -> dict[str, bytes]:
    """Return DAMAGES, and the first half of FILE's content as the damage "cut"."""
    content = file.read_bytes()
    return {**DAMAGES, "cut": content[: len(content) // 2]}
