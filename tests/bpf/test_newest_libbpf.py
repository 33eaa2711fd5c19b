"""Tests of the API and selftests pass with the newest libbpf, as they do with the system's.

A process loads one libbpf, so another session runs these tests. The first such session builds it.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
SAME_TESTS = (
    "selftests/test_link_pinning.py",
    "selftests/test_cgroup_link.py",
    "selftests/test_link_lifetime.py",
    *(f"tests/bpf/test_{name}.py" for name in ("bad_input", "btf", "cgroup", "link")),
)


def test_same_tests_pass(request: pytest.FixtureRequest) -> None:
    done = subprocess.run(
        [*PYTEST, "--bpf-libbpf=newest", *SAME_TESTS],
        capture_output=True,
        text=True,
        check=False,
        cwd=request.config.rootpath,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "libbpf 1.1 " not in done.stdout
    assert " skipped" not in done.stdout
