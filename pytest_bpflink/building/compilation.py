"""Compiles sources of BPF programs to an object, and keeps the object.

The key of the cache is everything that decides the object: the sources, the files they include, the
places where clang looked for these files in vain, the flags, the compiler and its environment. The
error of a source that does not compile is kept by the same key. A guest asks its host before it
compiles anything itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.building import (
    asking,
    headers,
    host,
    kernel_types,
    object_cache,
    prebuilt,
    static_linking,
    unused,
)
from pytest_bpflink.building.clang import (
    ClangRefusal,
    Target,
    clang,
    environment,
    flags,
    searched_last,
    translate,
)
from pytest_bpflink.building.object_cache import Kept, digest
from pytest_bpflink.building.recipe import CFLAGS, Made, Recipe
from pytest_bpflink.errors import BpfError, CompileError, is_bpf_error
from pytest_bpflink.vm.cache import cache_part, is_trusted, usable
from pytest_bpflink.vm.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_HANDED_OVER = "BPFLINK_OBJECTS"


def object_of(wanted: str | os.PathLike[str] | Recipe) -> Path:
    """Return the object file to load: the path itself, or the object compiled from a `.bpf.c`.

    A source that is installed with its object, as in the wheel, is compiled only if it was edited.
    A path that does not end in `.c` is returned as it is, whether the file exists or not. Raises
    `CompileError`, and `BpfError` if objects can't be linked.
    """
    __tracebackhide__ = is_bpf_error
    given = wanted if isinstance(wanted, Recipe) else Recipe((Path(wanted),))
    remembered = _remembered(given)
    if remembered:
        return remembered
    recipe = _one_name(given)
    source = recipe.sources[0]
    if len(recipe.sources) == 1 and source.suffix != ".c":
        return source
    for each in recipe.sources:
        if not each.exists():
            raise CompileError(errno.ENOENT, f"compile {each}")
    there = _remembered(recipe)
    if not there and recipe.is_plain:
        there = prebuilt.find(source) or _handed_over(source)
    return there or _made_here(recipe, given=given)


def prepare(sources: Iterable[Path], *, before_each: Callable[[Path], object]) -> None:
    """Compile sources into the cache before guests start: clang takes minutes in an emulated one.

    The error of a source that does not compile is kept for the test that loads it. Guests, too,
    compile with this kernel's `vmlinux.h`; CO-RE adapts programs to their kernels. `before_each` is
    called with each source that is not in the cache.
    """
    for source in sources:
        with contextlib.suppress(CompileError):
            if _missing_types(Recipe((source,)), source):
                kernel_types.use_in_guests(kernel_types.running())
            if not _is_known(source):
                before_each(source)
            object_of(source)


def made(recipe: Recipe) -> Made:
    """Return what becomes of a recipe on this host."""
    return _outcome(lambda: object_of(recipe))


def made_of(sources: Iterable[Path]) -> dict[Path, Made]:
    """Return what became of sources that `prepare` has compiled."""
    return {source: made(Recipe((source,))) for source in map(_one_path, sources)}


def made_for(
    recipe: Recipe,
    target: Target,
    *,
    header: Callable[[], Path],
    before_each: Callable[[Path], object],
) -> Made:
    """Return what becomes of a recipe for guests of another architecture.

    HEADER makes the `vmlinux.h` of their kernel. `before_each` is called with each source that is
    not in the cache.
    """
    compiler = _Compiler(target, header, before_each)
    return _outcome(lambda: compiler.build(_one_name(recipe)).object)


def made_for_each(
    sources: Iterable[Path],
    target: Target,
    *,
    header: Callable[[], Path],
    before_each: Callable[[Path], object],
) -> dict[Path, Made]:
    """Compile sources for guests of another architecture; return what became of them."""
    return {
        source: made_for(Recipe((source,)), target, header=header, before_each=before_each)
        for source in map(_one_path, sources)
    }


def clang_version() -> str:
    """Return the release of clang, such as `14.0.6`; empty without clang. Each clang runs once."""
    compiler = clang()
    if compiler is None:
        return ""
    file = usable(cache_part("clang") / digest(_identity(compiler)))
    with contextlib.suppress(OSError, ValueError):
        if is_trusted(file) and (known := file.read_text()):
            return known
    line = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False
    ).stdout.partition("\n")[0]
    release = line.partition("version ")[2].split()[0] if "version " in line else line
    with contextlib.suppress(OSError):
        write_whole(file, release.encode())
    return release


def _outcome(make: Callable[[], Path]) -> Made:
    try:
        return Made(make())
    except BpfError as error:
        return Made(None, error.log, error.hint, error.operation, error.errno or errno.EINVAL)


def _one_name(recipe: Recipe) -> Recipe:
    return replace(recipe, sources=tuple(map(_one_path, recipe.sources)))


def _one_path(source: Path) -> Path:
    """Return one path for a source, whichever symlinks lead to its directory: it is compiled once.

    A source that is a symlink itself stays one: clang looks for headers beside the link.
    """
    return source.parent.resolve() / source.name


# By recipe and environment: the object, and the signature and the paths of what it was made of.
_compiled: dict[tuple[Recipe, object], tuple[Path, object, list[Path]]] = {}


def _surroundings() -> object:
    return environment(), os.environ.get(CFLAGS)


def _remembered(recipe: Recipe) -> Path | None:
    built, state, parts = _compiled.get((recipe, _surroundings()), (None, None, []))
    return built if built and state == object_cache.signature(parts) else None


def _handed_over(source: Path) -> Path | None:
    __tracebackhide__ = is_bpf_error
    if _HANDED_OVER not in os.environ:
        return None
    from pytest_bpflink.building import handed_over

    found = handed_over.find(source)
    if found and found.object is None:
        raise CompileError(errno.EINVAL, f"compile {source}", hint=found.hint, log=found.log)
    return found.object if found else None


def _made_here(recipe: Recipe, *, given: Recipe) -> Path:
    __tracebackhide__ = is_bpf_error
    compiler = _Compiler()
    kept = compiler.known(recipe) or _asked_for(recipe) or compiler.build(recipe)
    # Remembered by the given names, too, since resolving them takes longer than all the rest. The
    # signature includes the files at these names, which may lead elsewhere the next time.
    for each in (recipe, given):
        parts = [*each.sources, *kept.parts]
        state = object_cache.signature(parts)
        _compiled[each, _surroundings()] = kept.object, state, parts
    return kept.object


def _asked_for(recipe: Recipe) -> Kept | None:
    """Return what the host makes of a recipe; None if there is no host to ask."""
    __tracebackhide__ = is_bpf_error
    ask = host.connection()
    if ask is None:
        return None
    request = asking.request_for(recipe)
    answer = ask(request)
    if answer is None:
        return None
    if answer.image is None:
        raise CompileError(answer.errno, answer.doing, hint=answer.hint, log=answer.log)
    # Mostly in memory: what a guest writes is not in the host's cache.
    entry = object_cache.entry("asked for", repr(recipe), *request.surroundings)
    parts = [*map(Path, request.files)]
    beside = [*recipe.directories, *(source.parent for source in recipe.sources)]
    return object_cache.keep(entry, answer.image, [*parts, *headers.empty_places(parts, beside)])


def _is_known(source: Path) -> bool:
    if clang() is None or prebuilt.find(source):
        return True
    entry, _ = _Compiler().entry(source, Recipe((source,)))
    return object_cache.look_up(entry) is not None or object_cache.failure(entry) is not None


class _Compiler:
    """Makes objects for one kind of machine, by default for this one."""

    def __init__(
        self,
        target: Target | None = None,
        header: Callable[[], Path] = kernel_types.running,
        before_each: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self._target = target
        self._header = header
        self._before_each = before_each

    def known(self, recipe: Recipe) -> Kept | None:
        """Return an object that was made before. Raises CompileError if clang refused it before."""
        __tracebackhide__ = is_bpf_error
        if clang() is None:
            return None
        # Not in a comprehension, whose frame would be in the traceback of a failed test.
        objects = [*filter(None, map(partial(self._known_unit, recipe), recipe.sources))]
        if len(objects) < len(recipe.sources):
            return None
        return objects[0] if len(objects) == 1 else object_cache.look_up(_linked(objects))

    def build(self, recipe: Recipe) -> Kept:
        """Return an object, from the cache or compiled. Raises `BpfError`."""
        __tracebackhide__ = is_bpf_error
        units = [*map(partial(self._build_unit, recipe), recipe.sources)]
        if len(units) == 1:
            return units[0]
        entry = _linked(units)
        parts = dict.fromkeys([recipe.sources[0], *(each.object for each in units)])
        parts |= dict.fromkeys(part for each in units for part in each.parts)
        return object_cache.look_up(entry) or object_cache.keep(
            entry, static_linking.link([each.object for each in units]), parts
        )

    def entry(self, source: Path, recipe: Recipe) -> tuple[Path, list[str]]:
        """Return the place of a source's object in the cache, and the command that compiles it."""
        compiler = clang()
        if compiler is None:
            raise _without_clang(source)
        last = [source.parent] if source.parent not in _resolved(recipe) else []
        types = _missing_types(recipe, source)
        if types:
            last += kernel_types.directories_for(self._header(), types)
        command = [str(compiler), *flags(self._target, more=recipe.flags), *searched_last(last)]
        # Without the files that the source includes: only compiling it shows which these are.
        key = _identity(compiler), *command, *environment(), str(source)
        return object_cache.entry(*key), command

    def _known_unit(self, recipe: Recipe, source: Path) -> Kept | None:
        __tracebackhide__ = is_bpf_error
        if source.suffix != ".c":
            return Kept(source, [source])
        entry, _ = self.entry(source, recipe)
        found = object_cache.look_up(entry)
        failure = None if found else object_cache.failure(entry)
        if failure is not None:
            raise _refusal(source, failure)
        return found

    def _build_unit(self, recipe: Recipe, source: Path) -> Kept:
        __tracebackhide__ = is_bpf_error
        found = self._known_unit(recipe, source)
        if found:
            return found
        self._before_each(source)
        entry, command = self.entry(source, recipe)
        if host.connection() is None:  # a guest looks through its host's cache slowly
            unused.prune_once()
        try:
            image, inputs = translate(command, source)
        except ClangRefusal as refusal:
            if refusal.is_final:
                parts = [*refusal.inputs.files, *refusal.inputs.empty]
                object_cache.keep_failure(entry, str(refusal), parts)
            raise _refusal(source, str(refusal)) from None
        return object_cache.keep(entry, image, [*inputs.files, *inputs.empty])


def _linked(units: Sequence[Kept]) -> Path:
    contents = [object_cache.content(each.object) for each in units]
    return object_cache.entry("linked", *(str(each.object) for each in units), *contents)


def _resolved(recipe: Recipe) -> set[Path]:
    # clang drops the earlier one of two equal directories if the later one is a system directory.
    return {each.resolve() for each in recipe.directories}


def _missing_types(recipe: Recipe, source: Path) -> list[str]:
    """Return the names by which a source includes a `vmlinux.h` that the user does not have."""
    directories = [*recipe.directories, source.parent]
    return headers.missing(kernel_types.NAME, source, directories)


def _without_clang(source: Path) -> CompileError:
    hint = "clang is not installed (Debian: apt install clang); or give a built .bpf.o"
    if _HANDED_OVER in os.environ:
        hint = (
            "clang is not installed in this guest; the host compiles what pytest's own process asks"
            " for, with the variables that the host has itself (CPATH and others)"
        )
    return CompileError(errno.ENOENT, f"compile {source}", hint=hint)


def _refusal(source: Path, log: str) -> CompileError:
    hint = "clang says:"
    if "'gnu/stubs" in log:
        hint = (
            "glibc's headers lack a file for the target bpf (Debian: apt install libc6-dev-i386, or"
            f" define __x86_64__ on x86-64); {hint}"
        )
    return CompileError(errno.EINVAL, f"compile {source}", hint=hint, log=log)


def _identity(program: Path) -> str:
    status = program.stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"
