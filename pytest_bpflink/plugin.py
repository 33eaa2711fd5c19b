"""The pytest plugin: options, markers, header, report sections.

Hooks only. Fixtures are in `fixtures`, kernels as a parameter in `matrix`. Nothing that costs time
(ctypes, libbpf, xdist) is imported before a test or an option asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

pytest_plugins = ["pytest_bpflink.fixtures"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; `docs` and the README list them in this order."""
    kernels = parser.getgroup("bpflink-kernels", "BPF links on other kernels")
    kernels.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="SPEC[,SPEC...]",
        help="Kernels to run each test on: native (this one, no VM), a release (6.1, 6.1.176), a"
        " path to an image, an unpacked package or a build tree (repeatable)",
    )
