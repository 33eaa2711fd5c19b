"""The maps that a program uses, by name."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import PROG_NAME_LENGTH, BpfProgInfo
from pytest_bpflink.bpf.maps.loaded_map import LoadedMap
from pytest_bpflink.bpf.maps.references import MapDescriptor
from pytest_bpflink.errors import UnknownName
from pytest_bpflink.introspection.ids import open_by_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The kernel cuts longer names.
_LONGEST = PROG_NAME_LENGTH - 1


class ProgramMaps(Mapping[str, LoadedMap]):
    """The maps that a program uses, by name.

    The kernel keeps 15 characters of a name, and libbpf names a map of global variables by the
    beginning of the object's name and the section: that of `egress_counter.bpf.o` is `egress_c.bss`
    in the kernel. It is found by this name, by `egress_counter.bss`, and by the section, `.bss`.
    Of maps with the same name each is `NAME:ID`. Another name raises `UnknownName`, which lists
    the maps.
    """

    def __init__(self, program: str, maps: Iterable[LoadedMap]) -> None:
        self._program = program
        maps = list(maps)
        times = Counter(each.name for each in maps)
        self._maps = {
            each.name if times[each.name] == 1 else f"{each.name}:{each.id}": each for each in maps
        }

    def __getitem__(self, name: str) -> LoadedMap:
        found = self._maps.get(name) or self._maps.get(name[:_LONGEST])
        if found is not None:
            return found
        of_section = [each for each in self._maps.values() if _holds_section(each.name, name)]
        if len(of_section) != 1:
            raise UnknownName("map", name, self._maps, f"program {self._program}")
        return of_section[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)

    def __repr__(self) -> str:
        return f"<ProgramMaps of {self._program}: {', '.join(self._maps) or 'none'}>"


def _holds_section(kept: str, name: str) -> bool:
    """Whether the kernel's name of a map is that of a section: `.bss`, or `egress_counter.bss`."""
    prefix, dot, section = name.partition(".")
    kept_prefix, kept_dot, kept_section = kept.partition(".")
    if not dot or not kept_dot or not prefix.startswith(kept_prefix if prefix else ""):
        return False
    is_cut = len(kept) == _LONGEST and section.startswith(kept_section)
    return section == kept_section or is_cut


def map_ids(program: int, *, doing: str) -> list[int]:
    """Return the ids of the maps that the program of a descriptor uses. Raises `BpfError`."""
    count = libbpf.read_info(program, BpfProgInfo, doing=doing).nr_map_ids
    numbers = (ctypes.c_uint32 * count)()
    asked = BpfProgInfo(nr_map_ids=count, map_ids=ctypes.addressof(numbers) if count else 0)
    libbpf.refresh_info(program, asked, doing=doing)
    return list(numbers)


def open_maps(program: int, *, doing: str) -> list[LoadedMap]:
    """Open the maps that the program of a descriptor uses; the caller releases them.

    Raises `BpfError`, with EPERM without CAP_SYS_ADMIN.
    """
    with contextlib.ExitStack() as undo:
        opened = []
        for number in map_ids(program, doing=doing):
            each = LoadedMap(MapDescriptor(open_by_id("map", number)), is_lent=True)
            undo.callback(each.release)
            opened.append(each)
        undo.pop_all()
        return opened
