"""Several libbpfs: each is paired with each kernel, in workers of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from pytest_bpflink.binding import libbpf
from tests.support.fake_guests import booted
from tests.support.libbpfs import copy_system_libbpf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]

TEST = """
    from pathlib import Path
    import pytest
    from pytest_bpflink.binding import libbpf

    @pytest.mark.parametrize("name", ["pin"])
    def test_x(name, request):
        libbpf.version()
        with Path("loaded").open("a") as loaded:
            loaded.write(f"{request.node.name} {Path(libbpf.path()).name}\\n")
"""


@pytest.fixture
def other(pytester: pytest.Pytester) -> Path:
    """Another libbpf: a copy of the system's, in a directory named for a version."""
    return copy_system_libbpf(pytester.mkdir("libbpf-1.99") / "libbpf.so.1.99")


def loaded(pytester: pytest.Pytester) -> set[str]:
    return set((pytester.path / "loaded").read_text().splitlines())


def test_each_pair_of_kernel_and_libbpf_is_a_worker_and_part_of_the_id(
    pytester: pytest.Pytester, with_fakes: Run, other: Path, tmp_path: Path
) -> None:
    pytester.makepyfile(TEST)
    junit = tmp_path / "junit.xml"

    result = with_fakes(
        "--kernel", "6.1,native", "--bpf-libbpf", f"system,{other}", "--junitxml", junit,
        "--kernel-report", "r.json",
    )  # fmt: skip

    result.assert_outcomes(passed=4)
    assert loaded(pytester) == {
        "test_x[pin-6.1-libbpf-system] libbpf.so.1",
        "test_x[pin-6.1-libbpf1.99] libbpf.so.1.99",
        "test_x[pin-native-libbpf-system] libbpf.so.1",
        "test_x[pin-native-libbpf1.99] libbpf.so.1.99",
    }
    assert booted(pytester.path) == ["6.1", "6.1"]
    release = libbpf.version()
    result.stdout.re_match_lines_random(
        [
            rf"kernel 6\.1-libbpf1\.99: Linux \S+, libbpf {release} \({other}\), TCG: .*",
            rf"native-libbpf-system +\S+, libbpf {release} +native +- +1 .*",
        ]
    )
    names = {case.get("name") for case in ET.parse(junit).getroot().iter("testcase")}  # noqa: S314
    assert names == {line.partition(" ")[0] for line in loaded(pytester)}
    report = json.loads((pytester.path / "r.json").read_text())
    assert [(each["id"], each["libbpf"], each["libbpf_path"]) for each in report["kernels"]] == [
        ("6.1-libbpf-system", release, "system"),
        ("6.1-libbpf1.99", release, str(other)),
        ("native-libbpf-system", release, "system"),
        ("native-libbpf1.99", release, str(other)),
    ]
    (test,) = report["tests"]
    assert test["id"].endswith("::test_x[pin]")
    assert test["results"]["6.1-libbpf1.99"]["nodeid"].endswith("::test_x[pin-6.1-libbpf1.99]")


@pytest.mark.parametrize("arguments", [[], ["--kernel", "native"], ["-n", "2"]])
def test_without_other_kernels_each_libbpf_has_its_workers(
    pytester: pytest.Pytester, with_fakes: Run, other: Path, arguments: list[str]
) -> None:
    pytester.makepyfile(TEST)

    result = with_fakes("--bpf-libbpf", f"{other},system", *arguments)

    result.assert_outcomes(passed=2)
    assert loaded(pytester) == {
        "test_x[pin-native-libbpf1.99] libbpf.so.1.99",
        "test_x[pin-native-libbpf-system] libbpf.so.1",
    }


def test_the_ini_file_can_ask_for_several(
    pytester: pytest.Pytester, with_fakes: Run, other: Path
) -> None:
    pytester.makeini(f"[pytest]\nbpflink_libbpf = system,libbpf-1.99/{other.name}")
    pytester.makepyfile(TEST)

    with_fakes("-m", "on_kernel(libbpf='system')").assert_outcomes(passed=1)

    assert loaded(pytester) == {"test_x[pin-native-libbpf-system] libbpf.so.1"}


def test_what_differs_between_libbpfs_is_shown(
    pytester: pytest.Pytester, with_fakes: Run, other: Path
) -> None:
    pytester.makepyfile("def test_x(request): assert 'system' in request.node.name")

    result = with_fakes("--bpf-libbpf", f"system,{other}")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["differs: *::test_x: passed on native-libbpf-system; failed on native-libbpf1.99; *"]
    )


def test_collecting_only_chooses_none(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--collect-only", "-q", "--bpf-libbpf", "system,0.1,./absent/src")

    assert [line.partition("::")[2] for line in result.outlines if "::" in line] == [
        "test_x[native-libbpf-system]",
        "test_x[native-libbpf0.1]",
        "test_x[native-libbpf-absent]",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bpf-libbpf", "system,"], "ERROR: --bpf-libbpf: a SPEC is empty; *"),
        (["--bpf-libbpf", "1.7, 1.7"], "ERROR: --bpf-libbpf: 1.7 is given twice"),
        (["--bpf-libbpf", "system,./absent"], "ERROR: --bpf-libbpf ./absent: neither 'system', *"),
        (["--bpf-libbpf", "system,1.7", "-p", "no:xdist"], "ERROR: several libbpfs need *xdist*"),
    ],
)
def test_what_cannot_work_is_a_usage_error(
    pytester: pytest.Pytester, with_fakes: Run, arguments: list[str], message: str
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
