"""Where pytest finds rewritten modules, if not in `__pycache__` beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from _pytest.assertion import rewrite

#: Named to guests where the modules' own __pycache__ must not be written.
VARIABLE: Final = "BPFLINK_PYCACHE"


def use() -> None:
    """Have pytest look for rewritten modules where the host put them.

    PYTHONPYCACHEPREFIX would have Python look there for every other module, too.
    """
    named = os.environ.get(VARIABLE)
    if named:
        rewrite.get_cache_dir = lambda file_path: Path(named, *file_path.parts[1:-1])
