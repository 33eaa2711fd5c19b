"""The page on link types: made from the results of a run, and in step with the table of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.selftests.conformance import page
from pytest_bpflink.selftests.conformance.outcomes import PREFIX, WINDOW
from pytest_bpflink.selftests.conformance.rows import ROWS

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "5.10.223-amd64", "7.2.13-amd64"


@pytest.fixture
def junit(tmp_path: Path, pytester: pytest.Pytester) -> Path:
    """A run on two kernels; the old one lacks some links, and answers differently."""
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_bpflink.selftests.conformance.outcomes import Outcomes

        LACKS = "this kernel ({OLD}) is built without CONFIG_FPROBE"

        @pytest.mark.parametrize(("row", "kernel", "answer", "skip"), [
            ("raw_tp", {OLD!r}, "EEXIST", ""),
            ("raw_tp", {OLD!r}, "", "functions of modules came with Linux 5.11"),
            ("raw_tp", {NEW!r}, "OK", ""),
            ("tp_btf", {OLD!r}, "EEXIST", ""),
            ("tp_btf", {NEW!r}, "OK", ""),
            ("fentry", {NEW!r}, "EBUSY", ""),
            ("fentry", {OLD!r}, "", "came with Linux 5.11, this is {OLD}"),
            ("fexit", {NEW!r}, "EINVAL", ""),
            ("kprobe_multi", {OLD!r}, "", LACKS),
            ("netkit_peer", {OLD!r}, "", "hm"),
            ("fentry_multi", {NEW!r}, "", "needs libbpf 1.8: this is libbpf 1.7"),
        ])
        def test_row(row, kernel, answer, skip, request):
            outcome = Outcomes(request.node.user_properties)
            request.node.user_properties.append(("kernel_version", kernel.partition("-")[0]))
            outcome.write("row", f"{{row}} {{kernel}} 1.7")
            if skip:
                pytest.skip(skip)
            outcome.write("attach twice", answer)
            outcome.write("open a pin read-only", "EINVAL")
            outcome.write({WINDOW + "unlink"!r}, "9")
        """
    )
    file = tmp_path / "run.xml"
    pytester.runpytest(f"--junitxml={file}", "-p", "no:cacheprovider")
    return file


def test_page(junit: Path) -> None:
    text = page.text(page.read(junit))
    lines = text.splitlines()
    assert f"- Linux 5.10.223 (`{OLD}`)" in lines
    assert f"- Linux 7.2.13 (`{NEW}`)" in lines
    assert "from a run with libbpf 1.7 on" in text
    assert "- open a pin read-only: EINVAL" in lines
    assert lines.count("| all RAW_TRACEPOINT | **OK** |") == 1
    assert lines.count("| fentry | EBUSY |") == 1
    assert "| all RAW_TRACEPOINT | attach twice | EEXIST | OK |" in lines
    assert "| fentry | attach twice | - | EBUSY |" not in lines
    assert "| raw_tp | unlink | 9 | 9 |" in lines


@pytest.mark.parametrize(
    "line",
    [
        "| raw_tp | RAW_TRACEPOINT | 5.7 |  |",
        "| fentry | TRACING | 5.7 | 5.10 |",
        "| kprobe_multi | KPROBE_MULTI | 5.18 | 5.10 (without CONFIG_FPROBE) |",
        "| netkit_peer | NETKIT | 6.7 | 5.10 (hm) |",
        "| fentry_multi | TRACING_MULTI | 7.2 | 7.2 (needs libbpf 1.8) |",
    ],
)
def test_where_a_link_is_missing(junit: Path, line: str) -> None:
    """A link is missing where all of its tests were skipped, with the reasons of the skips."""
    assert line in page.text(page.read(junit)).splitlines()


def test_file_of_another_run(tmp_path: Path) -> None:
    file = tmp_path / "run.xml"
    file.write_text("<testsuites/>")
    with pytest.raises(ValueError, match="has no results of selftests"):
        page.read(file)


def test_page_has_the_rows_of_the_table(request: pytest.FixtureRequest) -> None:
    """`make link-types` makes it anew."""
    lines = (request.config.rootpath / "docs/link-types.md").read_text().splitlines()
    first = lines.index("| link | type | since | missing on |") + 2
    listed = [
        line.split(" | ")[0].removeprefix("| ") for line in lines[first : lines.index("", first)]
    ]
    assert listed == [row.id for row in ROWS]
    assert not any(PREFIX in line for line in lines)
