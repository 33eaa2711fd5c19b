"""What a kernel that proves something about the tests has beyond the small kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import mutants

if TYPE_CHECKING:
    from .edits import Edit, Top


@dataclass(frozen=True)
class Flavour:
    """Options and edits of a kernel."""

    config: str
    edits: tuple[Edit | Top, ...] = ()


FLAVOURS = {
    "mutants": Flavour(config="", edits=mutants.edits()),
    "debug": Flavour(
        config="""\
CONFIG_DEBUG_KERNEL=y
CONFIG_PROVE_LOCKING=y
CONFIG_PROVE_RCU=y
CONFIG_DEBUG_ATOMIC_SLEEP=y
CONFIG_KASAN=y
"""
    ),
}
