"""The selftests use the public API, as anyone's tests would, and few modules behind it."""

from __future__ import annotations

import ast
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest_bpflink
from pytest_bpflink import errors, selftests
from pytest_bpflink.binding import btf, kernel_btf, libbpf, opts
from pytest_bpflink.features import probing
from pytest_bpflink.session import requirements

if TYPE_CHECKING:
    from collections.abc import Iterator

# selftests/__init__.py and docs/architecture.md say what for.
INNER = {
    module.__name__ for module in (btf, errors, probing, libbpf, opts, requirements, kernel_btf)
}


def imported_by(file: Path) -> Iterator[str]:
    """Yield the project's modules that a file imports, anywhere in it, beside other selftests."""
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (module_of(name) for name in names if is_inner(name))


def is_inner(name: str) -> bool:
    """Whether a dotted name is behind the public API."""
    package, _, rest = name.partition(".")
    public = {*pytest_bpflink.__all__, "selftests"}
    return package == pytest_bpflink.__name__ and rest.partition(".")[0] not in public


def module_of(name: str) -> str:
    """Return a dotted name that is a module's, or else the module that the name is in."""
    return name if isinstance(pkgutil.resolve_name(name), ModuleType) else name.rpartition(".")[0]


def test_selftests_import_the_public_api_and_few_inner_modules() -> None:
    files = Path(selftests.__path__[0]).rglob("*.py")
    assert {module for file in files for module in imported_by(file)} == INNER
