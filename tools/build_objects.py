"""A build hook of hatchling that adds the selftests' BPF objects: to run them needs no clang then.

If the objects can't be compiled, the build says so, and the wheel lacks nothing else. The tests of
the package insist on the objects.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SELFTESTS = "pytest_bpflink/selftests"
PROGRAMS = tuple(f"{_SELFTESTS}/{room}progs" for room in ("", "conformance/", "upstream/"))


class ObjectsHook(BuildHookInterface[Any]):
    """Adds the objects to a wheel; an editable install compiles its sources as they change."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile them into a temporary directory, and have the wheel include them."""
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from pytest_bpflink.building.clang import ClangRefusal  # needs nothing but Python

        self._directory = tempfile.TemporaryDirectory(prefix="bpflink-objects-")
        made: dict[str, str] = {}
        try:
            for directory in PROGRAMS:
                made |= self._compile(directory)
        except (ClangRefusal, OSError) as error:
            self.app.display_warning(
                "The selftests' BPF objects are left out, so running them needs clang:"
                f" {error}\n(Debian: apt install clang libbpf-dev linux-libc-dev)"
            )
            return
        build_data["force_include"] |= made

    def _compile(self, directory: str) -> dict[str, str]:
        """Return each file that is built, and its place in the wheel."""
        from pytest_bpflink.building import prebuilt  # needs nothing but Python

        into = Path(self._directory.name, directory)
        into.mkdir(parents=True)
        built = prebuilt.build(Path(self.root, directory).resolve(), into, named=directory)
        return {str(file): f"{directory}/{file.name}" for file in built}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove the temporary directory."""
        if version != "editable":
            self._directory.cleanup()
