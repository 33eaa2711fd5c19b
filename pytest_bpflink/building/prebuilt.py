"""Objects that are installed beside their sources, as the selftests' objects in the wheel.

`prebuilt.json` beside them has digests of the files that each object was made of. An object is used
only while these files are unedited. File times are ignored, since installers set them as they like.
Knows neither caches nor the rest of the project except `clang`, since the build of the wheel
imports it.
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
    """Return the object installed beside a source; None without one, or if a file was edited."""
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
    """Compile each `.bpf.c` of a directory, and return the paths of the objects and the index.

    `named` is the directory's name in the objects' debug information, which so does not depend on
    the place of the build. Raises `ClangRefusal`, and `FileNotFoundError` without clang.
    """
    compiler = clang()
    if compiler is None:
        raise FileNotFoundError("clang is not installed")
    command = [str(compiler), *flags(), f"-ffile-prefix-map={sources}={named}"]
    index: dict[str, dict[str, str]] = {}
    made = []
    for source in sorted(sources.glob("*.bpf.c")):
        image, inputs = translate(command, source)
        # Only the project's own files are checked for edits, not the system's headers.
        own = [part for part in inputs.files if part.is_relative_to(sources)]
        index[source.name] = {str(part.relative_to(sources)): _digest(part) for part in own}
        made.append(into / source.with_suffix(".o").name)
        made[-1].write_bytes(image)
    made.append(into / INDEX)
    # By machine: how a program reads registers depends on the architecture.
    made[-1].write_text(json.dumps({platform.machine(): index}, indent=1) + "\n")
    return made


@functools.cache
def _read(index: Path) -> dict[str, dict[str, dict[str, str]]]:
    # Read once: only the build of the wheel writes it.
    return json.loads(index.read_text()) if index.exists() else {}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
