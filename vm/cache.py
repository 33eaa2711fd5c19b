"""The directory in which everything is that is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_root() -> Path:
    """Return the user's cache directory of this project, or the one that `BPFLINK_CACHE` names."""
    named = os.environ.get("BPFLINK_CACHE")
    return Path(named).resolve() if named else platformdirs.user_cache_path("pytest-bpflink")
