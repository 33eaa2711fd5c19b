"""The project under test in packed guests, those of kernels without 9p.

Knows what a session's tests need of this host beside what is packed into the guests' image: the
project, its compiled programs, and libbpf. `vm.warm.parcel` makes an archive of it.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.building import compilation, handed_over
from pytest_bpflink.session import pytest_internals
from pytest_bpflink.vm.image import packed_root
from pytest_bpflink.vm.warm import parcel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_bpflink.vm.image.inventory import Inventory
    from pytest_bpflink.vm.image.packed_root import PackedRoot

# The guest's own file system.
_INDEX = Path("/run/bpflink-objects.json")

# Variables that may name a directory of .pyc files, by the path of their sources.
_CACHES = ("PYTHONPYCACHEPREFIX", pytest_internals.PYCACHE)


class PackedProject:
    """What all packed guests of a session are sent: as it is when the first of them is up."""

    #: For the environment of the guests.
    variables: Mapping[str, str] = {handed_over.VARIABLE: str(_INDEX)}

    def __init__(self, sent: Iterable[str], *, cwd: Path, say: Callable[[str], None]) -> None:
        """SENT are directories and files, CWD is the guests' working directory.

        SAY is called with a sentence if files are left out.
        """
        self._sent = [*map(Path, sent)]
        self._cwd = cwd
        self._say = say
        self._programs: list[Path] = []
        self._libraries: list[str] = []
        self._composing = threading.Lock()
        self._parcel: bytes | None = None

    def add(self, sources: Iterable[Path], libbpfs: Iterable[str]) -> None:
        """Add the sources of BPF programs, which are compiled, and the paths of libbpfs."""
        self._programs += sources
        self._libraries += libbpfs

    def parcel(
        self, environment: Mapping[str, str], inventory: Inventory, packed: PackedRoot
    ) -> bytes:
        """Return the archive for guests with this environment and Python. Raises MachineError."""
        # Guests boot side by side, in threads.
        with self._composing:
            if self._parcel is None:
                self._parcel = self._compose(environment, inventory, packed)
            return self._parcel

    def _compose(
        self, environment: Mapping[str, str], inventory: Inventory, packed: PackedRoot
    ) -> bytes:
        made = compilation.made_of(self._programs)
        objects = [result.object for result in made.values() if result.object]
        libraries = [*self._libraries, *packed_root.needed_libraries(self._libraries)]
        return parcel.compose(
            parcel.Contents(
                trees=(
                    *(path for path in self._sent if path.is_dir()),
                    *parcel.outside(inventory.path, packed.directories),
                ),
                files=(
                    *(path for path in self._sent if path.is_file()),
                    *objects,
                    *map(Path, libraries),
                ),
                empty=(self._cwd,),
                made={_INDEX: handed_over.describe(made)},
                caches=tuple(environment[name] for name in _CACHES if environment.get(name)),
            ),
            say=self._say,
        )
