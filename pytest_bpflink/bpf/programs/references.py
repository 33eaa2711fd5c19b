"""What a program is known by: libbpf's structure, or a descriptor."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.kernel_btf import types_by_id
from pytest_bpflink.binding.uapi import PROG_NAME_LENGTH, BpfProgInfo, ProgType
from pytest_bpflink.bpf.descriptor import Descriptor, Reference
from pytest_bpflink.bpf.maps.program_maps import open_maps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_bpflink.binding.btf import Btf
    from pytest_bpflink.bpf.maps.loaded_map import LoadedMap


class ProgramReference(Reference, Protocol):
    """A program that the kernel has, or will have when an object is loaded."""

    @property
    def type(self) -> ProgType:
        """The program's type."""

    @property
    def maps(self) -> Sequence[LoadedMap]:
        """The maps that the program uses, lent. Raises `BpfError`."""


class ProgramDescriptor(Descriptor):
    """A program by a descriptor. What it is, the kernel says."""

    def __init__(self, fd: int) -> None:
        try:
            info = libbpf.read_info(fd, BpfProgInfo, doing="ask what a program is")
        except BaseException:
            os.close(fd)
            raise
        super().__init__("program", fd, info.id)
        self.type = ProgType(info.type)
        self._kept_name: str = info.name.decode(errors="replace")
        self._btf_id: int = info.btf_id

    @cached_property
    def name(self) -> str:
        """The name of the function; the kernel keeps 15 characters, and BTF has them all."""
        kept = self._kept_name
        if len(kept) < PROG_NAME_LENGTH - 1 or self.btf is None:
            return kept
        whole = self.btf.functions(kept)
        return whole[0] if len(whole) == 1 else kept

    @cached_property
    def btf(self) -> Btf | None:
        """The program's own BTF. Raises `BpfError` with EPERM without CAP_SYS_ADMIN."""
        return types_by_id(self._btf_id) if self._btf_id else None

    @cached_property
    def maps(self) -> Sequence[LoadedMap]:
        """The maps that the program uses, opened once. Raises `BpfError`."""
        return open_maps(self.fd, doing=f"look for the maps of program {self.name}")

    def close(self) -> None:
        """Close the descriptor, and those of its maps."""
        for each in self.__dict__.pop("maps", ()):
            each.release()
        super().close()
