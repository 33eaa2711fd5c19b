"""Objects that came with their sources, as the selftests' do in the wheel.

They stand beside the sources, with a `prebuilt.json` that says what each was made of. An object is
used where that still is what is there: an edited source or header is compiled anew. Times decide
nothing, since installers set them as they like. Knows neither caches nor the rest of the project
but `clang`, so that the wheel can be built with it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from typing import TYPE_CHECKING

from pytest_bpflink.building.clang import clang, flags, translate

if TYPE_CHECKING:
    from pathlib import Path

INDEX = "prebuilt.json"


def find(source: Path) -> Path | None:
    """Return the object that came with a source, None where there is none that fits."""
    index = _read(source.parent / INDEX)
    parts = index.get(platform.machine(), {}).get(source.name)
    if not parts:
        return None
    for name, digest in parts.items():
        part = source.parent / name
        if not part.is_file() or _digest(part) != digest:
            return None
    built = source.with_suffix(".o")
    return built if built.exists() else None


def build(sources: Path, into: Path, *, named: str) -> list[Path]:
    """Compile each `.bpf.c` of a directory, and return the objects and the index.

    `named` is what the objects' debug information calls the directory, lest it depend on where
    they were built. Raises `ClangRefusal`, and `FileNotFoundError` without clang.
    """
    compiler = clang()
    if compiler is None:
        raise FileNotFoundError("clang is not installed")
    command = [str(compiler), *flags(), f"-ffile-prefix-map={sources}={named}"]
    index: dict[str, dict[str, str]] = {}
    made = []
    for source in sorted(sources.glob("*.bpf.c")):
        image, parts = translate(command, source)
        # Headers of the system are not the project's to edit.
        own = [part for part in parts if part.is_relative_to(sources)]
        index[source.name] = {str(part.relative_to(sources)): _digest(part) for part in own}
        made.append(into / source.with_suffix(".o").name)
        made[-1].write_bytes(image)
    made.append(into / INDEX)
    # What a program reads of registers depends on the machine that it was compiled for.
    made[-1].write_text(json.dumps({platform.machine(): index}, indent=1) + "\n")
    return made


@functools.cache
def _read(index: Path) -> dict[str, dict[str, dict[str, str]]]:
    # Written by the build alone: it doesn't change while a session runs.
    return json.loads(index.read_text()) if index.exists() else {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
