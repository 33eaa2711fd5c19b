"""What runs in guests; `DIRECTORY` has these programs, some of which are copied into images."""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).resolve().parent
