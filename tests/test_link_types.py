"""The page on link types: made of what a run wrote down, and in step with the table of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.selftests import link_types
from pytest_bpflink.selftests.conformance import ROWS
from pytest_bpflink.selftests.outcomes import PREFIX, WINDOW

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "5.10.223-amd64", "7.2.13-amd64"


@pytest.fixture
def junit(tmp_path: Path, pytester: pytest.Pytester) -> Path:
    """A run in which `raw_tp` answers otherwise on another kernel, and `fentry` lacks one."""
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_bpflink.selftests.outcomes import Outcomes

        @pytest.mark.parametrize(("row", "kernel", "answer"), [
            ("raw_tp", {OLD!r}, "EEXIST"),
            ("raw_tp", {NEW!r}, "OK"),
            ("fentry", {NEW!r}, "EBUSY"),
            ("fentry", {OLD!r}, ""),
        ])
        def test_row(row, kernel, answer, request):
            outcome = Outcomes(request.node.user_properties)
            outcome.write("row", f"{{row}} {{kernel}} 1.7")
            if not answer:
                pytest.skip("came later")
            outcome.write("attach twice", answer)
            outcome.write("open a pin read-only", "EINVAL")
            outcome.write({WINDOW + "unlink"!r}, "9")
        """
    )
    file = tmp_path / "run.xml"
    pytester.runpytest(f"--junitxml={file}", "-p", "no:cacheprovider")
    return file


def test_page(junit: Path) -> None:
    page = link_types.page(link_types.read(junit))
    lines = page.splitlines()
    assert f"Linux {OLD}, Linux {NEW}, with libbpf 1.7" in page
    assert "| fentry | TRACING | 5.7 | 5.10 |" in lines
    assert "- open a pin read-only: EINVAL" in lines
    assert lines.count("| raw_tp | **OK** |") == 1
    assert lines.count("| fentry | EBUSY |") == 1
    assert "| raw_tp | attach twice | EEXIST | OK |" in lines
    assert "| fentry | attach twice | - | EBUSY |" not in lines
    assert "| raw_tp | unlink | 9 | 9 |" in lines


def test_file_of_another_run(tmp_path: Path) -> None:
    file = tmp_path / "run.xml"
    file.write_text("<testsuites/>")
    with pytest.raises(ValueError, match="not of a run of selftests"):
        link_types.read(file)


def test_page_has_the_rows_of_the_table(request: pytest.FixtureRequest) -> None:
    """`make link-types` makes it anew."""
    lines = (request.config.rootpath / "docs/link-types.md").read_text().splitlines()
    first = lines.index("| link | type | since | missing on |") + 2
    listed = [
        line.split(" | ")[0].removeprefix("| ") for line in lines[first : lines.index("", first)]
    ]
    assert listed == [row.id for row in ROWS]
    assert not any(PREFIX in line for line in lines)
