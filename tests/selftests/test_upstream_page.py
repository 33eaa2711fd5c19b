"""The page on the kernel's selftests: made from docstrings, and in step with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.selftests.upstream import page
from pytest_bpflink.selftests.upstream.not_here import NOT_HERE

if TYPE_CHECKING:
    from pathlib import Path

PORT = '''
"""The kernel's `one`: what it is about.

Ported from tools/testing/selftests/bpf/prog_tests/{one,other}.c (Linux 5.7,
links since 5.9), in its steps.

Beyond upstream, more
is asked.

Left out: the rest.
"""
def helper(): ...
def test_first(): ...
def test_second(): ...
'''


def test_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    """`make selftests-page` makes it anew."""
    assert (request.config.rootpath / "docs/selftests.md").read_text() == page.text()


def test_a_port_is_read_from_its_docstring() -> None:
    assert page.read("test_one.py", PORT) == page.Port(
        file="test_one.py",
        upstream=("one", "other"),
        since="5.7, links since 5.9",
        tests=("first", "second"),
        beyond="more is asked.",
        elsewhere="",
        left_out="the rest.",
    )


def test_a_file_that_names_none_is_no_port() -> None:
    assert page.read("test_it.py", '"""About links."""\ndef test_it(): ...\n') is None


def test_no_file_is_both_here_and_not() -> None:
    here = {name for port in page.ports() for name in port.upstream}
    assert here & NOT_HERE.keys() == set()


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("new_test", "bpf_link__pin(link, path);", ["new_test"]),
        ("perf_link", "bpf_link__pin(link, path);", []),  # here
        ("missed", "bpf_link__pin(link, path);", []),  # not here, with a reason
        ("new_test", "bpf_link__destroy(link);", []),
    ],
)
def test_files_that_the_page_lacks(
    tmp_path: Path, name: str, source: str, found: list[str]
) -> None:
    directory = tmp_path / "tools/testing/selftests/bpf/prog_tests"
    directory.mkdir(parents=True)
    (directory / f"{name}.c").write_text(source)
    assert page.unlisted(tmp_path) == found
