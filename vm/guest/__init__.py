"""The programs that run in guests. They are in `DIRECTORY`; images hold copies of some."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
