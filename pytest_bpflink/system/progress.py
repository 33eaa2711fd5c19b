"""How slow steps report their progress, such as building a libbpf or booting a guest."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Shows the present step, and writes lines that stay."""

    def __call__(self, text: str) -> None:
        """Show the present step, in place of the one before."""

    def line(self, text: str) -> None:
        """Write a line that stays."""

    def done(self) -> None:
        """Remove the present step."""
