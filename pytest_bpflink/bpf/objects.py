"""BPF object files: their programs and maps, and their global variables by name.

`Object.open()` reads the file, `load()` hands it to the kernel; in between, `configure()` chooses
what is loaded, and how. Programs and maps borrow from their object, and can't be used once it is
closed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Self

from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.btf import Btf
from pytest_bpflink.binding.opts import ObjectOpenOptions
from pytest_bpflink.bpf import configuration
from pytest_bpflink.bpf.loaded import note_closed, note_loaded
from pytest_bpflink.bpf.maps.global_variables import Globals
from pytest_bpflink.bpf.maps.map import LibbpfMap, Map
from pytest_bpflink.bpf.program import LibbpfProgram, Program
from pytest_bpflink.building.compilation import object_of
from pytest_bpflink.building.recipe import Recipe
from pytest_bpflink.errors import BpfError, VerifierError, by_name, is_bpf_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_bpflink.binding.uapi import AttachType, ProgType

    _Paths = str | os.PathLike[str]

_ELF_MAGIC = b"\x7fELF"

# libbpf's message on the program that the kernel did not load.
_REFUSED = re.compile(r"prog '(.+)': BPF program load failed")


class Object:
    """A BPF object: a `.bpf.o` file, opened and perhaps loaded.

    Lives until `close()` or the end of a `with` block. Then its programs and maps go, except those
    that a link, a pin or another descriptor still holds.
    """

    def __init__(self, pointer: int, path: Path, file: Path) -> None:
        self._pointer: int | None = pointer
        self.path = path
        """The path that `open()` was given, the first one of several."""
        self.file = file
        """The `.bpf.o`: `path`, or what it was compiled to."""
        self._sections: dict[str, Globals] = {}
        self.before_closing: list[Callable[[], None]] = []
        """Called when the object is closed, before libbpf frees it."""
        self.loaded = False
        """Whether the kernel has the object's programs and maps."""

    @classmethod
    def open(
        cls,
        path: _Paths | Sequence[_Paths],
        *,
        defines: Mapping[str, object] | None = None,
        include: Sequence[_Paths] = (),
        kconfig: Mapping[str, object] | None = None,
        pin_root: _Paths | None = None,
        btf: _Paths | None = None,
    ) -> Self:
        """Read a `.bpf.o`, or compile a `.bpf.c` and read its object, without loading it yet.

        Several sources are compiled and linked to one object, by libbpf's static linker. `defines`
        are macros of the sources (`-D`), by name, `include` directories of their headers (`-I`).

        `kconfig` has values of `extern ... __kconfig` variables, `{"CONFIG_HZ": 1000}`, which come
        before those of the kernel's configuration: True and False are `y` and `n`. `pin_root` is
        the directory of maps that are pinned by name, by default `/sys/fs/bpf`; the fixtures take
        the test's own mount. `btf` is a file with the types of the kernel, for CO-RE where the
        kernel has none.

        Raises `BpfError`: ENOENT where there is no file, EINVAL or an errno of libbpf's own for a
        file that is no BPF object, or where sources can't be linked; `CompileError` for a source
        that clang refuses; `ValueError` for a macro whose name is no identifier.
        """
        __tracebackhide__ = is_bpf_error
        recipe = Recipe.of(path, defines, include)
        path = recipe.sources[0]
        doing = f"open BPF object {path}"
        file = object_of(recipe)
        _require_elf(file, doing)
        options = ObjectOpenOptions(
            pin_root_path=os.fsencode(pin_root) if pin_root else None,
            kconfig=configuration.text(kconfig).encode() if kconfig else None,
            btf_custom_path=os.fsencode(btf) if btf else None,
        )
        pointer = libbpf.call(
            "bpf_object__open_file", os.fsencode(file), ctypes.byref(options), doing=doing
        )
        return cls(pointer, path, file)

    def configure(
        self,
        *,
        rodata: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        bss: Mapping[str, Any] | None = None,
        max_entries: Mapping[str, int] | None = None,
        skip: Iterable[str] = (),
        only: Iterable[str] | None = None,
        types: Mapping[str, ProgType | tuple[ProgType, AttachType]] | None = None,
        attach_to: Mapping[str, str | tuple[str, Program]] | None = None,
        log_level: int = 0,
    ) -> Self:
        """Choose what is loaded, and how, before `load()`; return the object itself.

        - `rodata`, `data`, `bss`: initial values of global variables, by name; also of those in
          sections such as `.data.NAME`.
        - `max_entries`: sizes of maps, by name (`Map.set_max_entries`).
        - `skip`: programs that are not loaded; `only`: the ones that are, also of `SEC("?...")`.
        - `types`: program types by program, or pairs of program type and attach type.
        - `attach_to`: functions of the kernel by program; or pairs of a function and the loaded
          `Program` that has it (`Program.set_attach_target`).
        - `log_level`: of each program's `Program.log`.

        Raises `UnknownName`, and `BpfError` as the methods of programs and maps do.
        """
        __tracebackhide__ = is_bpf_error
        for section, values in ((".rodata", rodata), (".data", data), (".bss", bss)):
            for name, value in (values or {}).items():
                self._section_with(name, section)[name] = value
        for name, number in (max_entries or {}).items():
            self.map(name).set_max_entries(number)
        skipped = {self.program(name).name for name in skip}
        if only is not None:
            wanted = {self.program(name).name for name in only}
            for name, program in self.programs.items():
                program.set_autoload(name in wanted)
        for name in skipped:
            self.program(name).set_autoload(False)
        for name, kind in (types or {}).items():
            program_type, *attach_type = kind if isinstance(kind, tuple) else (kind,)
            self.program(name).set_type(program_type)
            for each in attach_type:
                self.program(name).set_expected_attach_type(each)
        for name, function in (attach_to or {}).items():
            target = function if isinstance(function, tuple) else (function,)
            self.program(name).set_attach_target(*target)
        if log_level:
            for program in self.programs.values():
                program.set_log_level(log_level)
        return self

    def load(self) -> Self:
        """Load the programs and maps into the kernel, and return the object itself.

        Raises `VerifierError` when the verifier refuses a program, and `BpfError` for any other
        failure. After a failure the object can't be loaded again.
        """
        __tracebackhide__ = is_bpf_error
        try:
            libbpf.call("bpf_object__load", self.pointer, doing=f"load BPF object {self.path}")
        except BpfError as error:
            raise self._with_log(error) from None
        self.loaded = True
        note_loaded(self)
        return self

    def close(self) -> None:
        """Release the object, its programs and its maps; idempotent."""
        if self._pointer is None:
            return
        for end in self.before_closing.copy():
            end()
        pointer, self._pointer = self._pointer, None
        note_closed(self)
        self.__dict__.pop("programs", None)
        for section in self._sections.values():
            section.release()
        self._sections.clear()
        libbpf.call("bpf_object__close", pointer, doing=f"close {self.path}")

    @property
    def pointer(self) -> int:
        """The `struct bpf_object *`. Raises `BpfError` with EBADF after `close()`."""
        if self._pointer is None:
            raise BpfError(errno.EBADF, f"use BPF object {self.path}", hint="it was closed")
        return self._pointer

    def program(self, name: str) -> Program:
        """Return a program by the name of its function.

        Raises `UnknownName`, which lists the object's programs.
        """
        return by_name("program", name, self.programs, self.path)

    def map(self, name: str) -> Map:
        """Return a map by its name. Raises `UnknownName`, which lists the object's maps."""
        return by_name("map", name, self.maps, self.path)

    @cached_property
    def programs(self) -> dict[str, Program]:
        """All programs of the object, by the names of their functions."""
        each = _each("bpf_object__next_program", self.pointer)
        programs = (Program(LibbpfProgram(self, one), is_lent=True) for one in each)
        return {program.name: program for program in programs}

    @property
    def maps(self) -> dict[str, Map]:
        """All maps of the object by name, with those for global variables (`.bss`, `.rodata`)."""
        each = _each("bpf_object__next_map", self.pointer)
        maps = (Map(LibbpfMap(self, one), is_lent=True) for one in each)
        return {one.name: one for one in maps}

    @property
    def bss(self) -> Globals:
        """Global variables with the initial value zero."""
        return self._globals(".bss")

    @property
    def data(self) -> Globals:
        """Global variables with any other initial value."""
        return self._globals(".data")

    @property
    def rodata(self) -> Globals:
        """Global constants, to be written before `load()`, which freezes them for the verifier."""
        return self._globals(".rodata")

    @property
    def kconfig(self) -> Globals:
        """Values from the kernel's configuration (`extern ... __kconfig`), once loaded."""
        return self._globals(".kconfig")

    def section(self, name: str) -> Globals:
        """Return the global variables of a section such as `.data.NAME`.

        Raises `UnknownName`, which lists the object's sections.
        """
        return by_name("section", name, self.sections, self.path)

    @property
    def sections(self) -> dict[str, Globals]:
        """All sections with global variables, by name."""
        names = self.btf.sections if self.btf else []
        return {name: self._globals(name) for name in names if self._map_of(name) is not None}

    @cached_property
    def btf(self) -> Btf | None:
        """The object's types; None when it was compiled without `-g`."""
        pointer = libbpf.call("bpf_object__btf", self.pointer, doing="ask for BTF")
        if not pointer:
            return None
        size = ctypes.c_uint32()
        raw = libbpf.call("btf__raw_data", pointer, ctypes.byref(size), doing="read BTF")
        return _types(ctypes.string_at(raw, size.value))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None) is not None:
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._pointer is None else "loaded" if self.loaded else "open"
        return f"<Object {self.path.name} {state}>"

    def variables_in(self, map_name: str) -> Globals | None:
        """Return the global variables in a map; None for any other map."""
        for section in self.btf.sections if self.btf else ():
            holder = self._map_of(section)
            if holder is not None and holder.name == map_name:
                return self._globals(section)
        return None

    def _globals(self, section: str) -> Globals:
        known = self._sections.get(section)
        if known is None:
            name = f"{section} of {self.path.name}"
            holder = self._map_of(section)
            variables = self.btf.section(section) if holder is not None and self.btf else {}
            known = Globals(name, holder, self.btf, variables)
            if self._pointer is not None:
                self._sections[section] = known
        return known

    def _map_of(self, section: str) -> Map | None:
        # libbpf puts a part of the object's name before the names of the four usual sections.
        for each in self.maps.values():
            if self.btf and each.is_internal and each.name.endswith(section):
                return each
        return None

    def _section_with(self, variable: str, kind: str) -> Globals:
        """Return the section of a variable: `.data`, or a section such as `.data.NAME`."""
        for name, section in self.sections.items():
            if variable in section and name.startswith(f"{kind}."):
                return section
        return self._globals(kind)

    def _with_log(self, error: BpfError) -> BpfError:
        """Return an error of loading with the log that the verifier wrote at the user's wish."""
        found = _REFUSED.search(error.log)
        log = self.programs[found[1]].log if found and found[1] in self.programs else ""
        if not found or not log or isinstance(error, VerifierError):
            return error
        number = error.errno or 0
        doing = error.operation
        return VerifierError(number, doing, program=found[1], verifier_log=log, log=error.log)


def _each(function: str, owner: int) -> Iterator[int]:
    pointer = None
    while pointer := libbpf.call(function, owner, pointer, doing="look through an object"):
        yield pointer


# For as many files as are in use at a time: reading types takes longer than loading programs.
@lru_cache(maxsize=8)
def _types(raw: bytes) -> Btf:
    return Btf(raw)


def _require_elf(file: Path, doing: str) -> None:
    """Raise `BpfError` with a clear sentence, where libbpf would report an error of libelf."""
    __tracebackhide__ = is_bpf_error
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_ELF_MAGIC))
    except OSError as error:
        raise BpfError(error.errno or 0, doing) from error
    if start != _ELF_MAGIC:
        hint = "not an ELF file; compile it with clang -target bpf -O2 -g -c"
        raise BpfError(errno.EINVAL, doing, hint=hint)
