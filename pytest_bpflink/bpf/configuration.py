"""The kernel's configuration, as libbpf reads it for `extern ... __kconfig` variables.

libbpf looks into /boot/config-RELEASE and /proc/config.gz, which not every machine has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The name of the section in an object's table of names.
_SECTION: Final = b".kconfig\0"

_PLAIN = re.compile(r"[ymn]|-?\d+|0[xX][0-9a-fA-F]+")


def is_asked_for(file: Path) -> bool:
    """Whether an object has variables that the kernel's configuration decides."""
    return _SECTION in file.read_bytes()


def text(values: Mapping[str, object]) -> str:
    """Return values by name, as a kernel's `.config` has them."""
    return "".join(f"{name}={_written(value)}\n" for name, value in values.items())


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "y" if value else "n"
    plain = str(value)
    return plain if _PLAIN.fullmatch(plain) else f'"{plain}"'
