"""The parts of a SPEC that users write after `--kernel`: what is a path in it, and what is not."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_bpflink.vm import architectures

OCI = "oci:"
"""Begins the SPEC of an image: in a registry, or in a layout on the disk."""


@dataclass(frozen=True)
class Spelled:
    """A SPEC in parts: PREFIX, as `arm64:` or `oci:`; PATH, if there is one; and the rest.

    The rest is a release, a word, or the reference of an image; behind a path it is `:TAG`.
    """

    prefix: str
    path: Path | None
    suffix: str

    @property
    def arch(self) -> str:
        """The architecture that it names; empty for none."""
        return architectures.split(f"{self.prefix}")[0]

    def __str__(self) -> str:
        """Return the SPEC, with the path as it is."""
        return f"{self.prefix}{'' if self.path is None else self.path}{self.suffix}"


def spelled(spec: str, directory: Path = Path()) -> Spelled:
    """Return the parts of a SPEC; its path is below DIRECTORY unless it is absolute.

    `oci:NAME` is a layout on the disk if there is such a directory, or if NAME begins as paths do:
    with `/`, `./`, `../` or `~`.
    """
    arch, rest = architectures.split(spec)
    if arch:
        inner = spelled(rest, directory)
        return replace(inner, prefix=f"{arch}:{inner.prefix}")
    if not spec.startswith(OCI):
        path = os.path.expanduser(spec)
        is_path = "/" in spec or (
            not re.match(r"\d+\.\d", spec) and os.path.exists(directory / path)
        )
        return Spelled("", directory / path, "") if is_path else Spelled("", None, spec)
    name = os.path.expanduser(spec.removeprefix(OCI))
    where, _, tag = name.rpartition(":")
    for path, suffix in ((name, ""), (where, f":{tag}")):
        if path and os.path.isdir(directory / path):
            return Spelled(OCI, directory / path, suffix)
    if re.match(r"~|\.{0,2}/", name):
        return Spelled(OCI, directory / name, "")
    return Spelled(OCI, None, name)
