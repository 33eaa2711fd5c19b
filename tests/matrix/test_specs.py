"""`--kernel` with the project's list and with patterns; the kernel in JUnit reports."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., pytest.RunResult]


@pytest.fixture
def stored(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a store with three kernels, on a host whose apt knows no mirror."""
    cache = pytester.mkdir("cache")
    for version in ("6.1.99", "6.12.5", "7.2.9"):
        boot = cache / f"kernels/{version}-amd64_{version}-1/boot"
        boot.mkdir(parents=True)
        (boot / f"vmlinuz-{version}-amd64").touch()
    monkeypatch.setenv("BPFLINK_CACHE", str(cache))
    programs = pytester.mkdir("bin")
    for name in ("apt-get", "apt-cache", "dpkg-deb"):
        (programs / name).write_text("#!/bin/sh\nexit 100\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return cache


def ids(result: pytest.RunResult) -> list[str]:
    """Return the ids of kernels, which the node ids end with."""
    return [line.partition("[")[2].rstrip("]") for line in result.outlines if "::" in line]


# The project's list


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\nbpflink_kernels = native, 6.1\n    ./linux\n"),
        ("pytest.ini", "[pytest]\nbpflink_kernels = native 6.1 ./linux\n"),
        ("tox.ini", "[pytest]\nbpflink_kernels = native,6.1 , ./linux\n"),
        ("pytest.toml", '[pytest]\nbpflink_kernels = ["native 6.1", "./linux"]\n'),
        ("pytest.toml", '[pytest]\nbpflink_kernels = ["native", "6.1", "./linux"]\n'),
        (
            "pyproject.toml",
            '[tool.pytest]\nbpflink_kernels = ["native,6.1", "./linux"]\n',
        ),
    ],
)
def test_kernels_of_the_project(
    pytester: pytest.Pytester, with_fakes: Run, name: str, text: str
) -> None:
    (pytester.path / name).write_text(text)
    below = pytester.mkdir("below")
    (below / "test_it.py").write_text("def test_x(): pass\n")
    pytester.mkdir("linux")
    os.chdir(below)

    show = ("--collect-only", "-q", "--kernel", "ini")
    assert ids(with_fakes(*show)) == ["native", "6.1", "linux"]
    # Paths are relative to the ini file, not to the current directory.
    marked = f'on_kernel(spec="{pytester.path / "linux"}")'
    assert ids(with_fakes(*show, "-m", marked)) == ["linux"]


def test_paths_of_packages_and_images(
    pytester: pytest.Pytester, with_fakes: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the project's list and on the command line, with a space and a comma in each."""
    pytester.makepyfile("def test_x(): pass")
    place = pytester.mkdir("kernels, old")
    (place / "linux-image-6.6.9-me_6.6.9-1_amd64.deb").touch()
    for name in ("debs", "image"):
        (place / name).mkdir()
    specs = [
        "./kernels, old/linux-image-6.6.9-me_6.6.9-1_amd64.deb",
        "./kernels, old/debs",
        "oci:kernels, old/image",
        "oci:./kernels, old/image:6.6",
        "oci:ghcr.example/ci-kernels:6.6",
    ]
    (pytester.path / "pytest.toml").write_text(f"[pytest]\nbpflink_kernels = {specs}\n")
    expected = ["6.6.9-me", "debs", "image", "image_6.6", "ci-kernels_6.6"]

    assert ids(with_fakes("--collect-only", "-q", "--kernel", "ini")) == expected

    result = with_fakes("--collect-only", "-q", "--kernel", "oci:")
    assert ids(result) == ["image"]  # which a run refuses

    options = [word for spec in specs for word in ("--kernel", spec)]
    assert ids(with_fakes("--collect-only", "-q", *options)) == expected
    again = f"oci:{place}/image"
    result = with_fakes("--collect-only", "-q", *options, "--kernel", again)
    assert f"ERROR: --kernel: {again} is given twice" in result.errlines
    # The list's paths begin at the list, a name in a registry nowhere.
    monkeypatch.chdir(pytester.mkdir("below"))
    marked = 'on_kernel(spec="oci:ghcr.example/ci-kernels:6.6")'
    result = with_fakes("--collect-only", "-q", "--kernel", "ini", "-m", marked, "..")
    assert ids(result) == ["ci-kernels_6.6"]
    marked = f'on_kernel(spec="oci:{place}/image:6.6")'
    result = with_fakes("--collect-only", "-q", "--kernel", "ini", "-m", marked, "..")
    assert ids(result) == ["image_6.6"]


def test_kernels_of_the_project_beside_others(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.makeini("[pytest]\nbpflink_kernels = native,6.1")

    result = with_fakes("--collect-only", "-q", "--kernel", "6.12,ini", "--kernel", "6.1")

    assert ids(result) == ["6.12", "native", "6.1"]


def test_kernels_of_the_project_are_not_the_default(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass")
    pytester.makeini("[pytest]\nbpflink_kernels = 6.1,6.12")

    with_fakes().assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("tox.ini", "", "native 6.1"),
        ("pytest.ini", "bpflink_kernels = ini", "native 6.1"),
        ("pytest.toml", "", '["native", "6.1"]'),
    ],
)
def test_project_without_kernels(
    pytester: pytest.Pytester, with_fakes: Run, name: str, text: str, form: str
) -> None:
    file = pytester.path / name
    file.write_text(f"[pytest]\n{text}\n")

    result = with_fakes("--kernel", "ini")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.errlines[0] == (
        f"ERROR: --kernel ini: bpflink_kernels names no kernels in {file}; write there"
        f" bpflink_kernels = {form}, or name them here"
    )


def test_path_with_commas_and_spaces_is_one_spec(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    """A value that is an existing path is not split, in the option and in the project's list."""
    pytester.makepyfile("def test_x(): pass")
    first, second = pytester.mkdir("v6.1,my kernel"), pytester.mkdir("6.12, 6.18")
    pytester.makeini(f"[pytest]\nbpflink_kernels = \n    ./{second.name}\n    native 6.1\n")

    show = ("--collect-only", "-q", "--kernel", str(first), "--kernel", "5.10,ini")
    assert ids(with_fakes(*show)) == ["v6.1_my_kernel", "5.10", "6.12_6.18", "native", "6.1"]
    for kernel, found in ((first, "v6.1_my_kernel"), (second, "6.12_6.18")):
        marked = f'on_kernel(spec="{kernel}")'
        assert ids(with_fakes(*show, "-m", marked)) == [found]


def test_option_for_one_run_needs_no_file(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--collect-only", "-q", "--kernel", "ini", "-o", "bpflink_kernels=6.1")

    assert ids(result) == ["6.1"]


# Patterns


@pytest.mark.usefixtures("stored")
def test_pattern_gives_an_item_for_each_kernel(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--collect-only", "-q", "--kernel", "7.2,6.*")

    assert ids(result) == ["7.2", "6.1", "6.12"]
    result.stderr.fnmatch_lines(["6.[*]: *knows no Debian mirror*looked for in the store alone"])


def test_architecture_is_in_the_ids(pytester: pytest.Pytester, with_fakes: Run) -> None:
    image = pytester.mkdir("my kernel") / "Image"
    image.touch()
    pytester.makepyfile("def test_it(): pass")
    asked = f"6.1,arm64:6.1,arm64:{image},s390x:{image}"
    result = with_fakes("--collect-only", "-q", "--kernel", asked)
    assert ids(result) == ["6.1", "arm64_6.1", "arm64_my_kernel", "s390x_my_kernel"]
    result = with_fakes(
        "--collect-only", "-q", "--kernel", f"arm64:{image},arm64:./my kernel/Image"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --kernel: arm64:./my kernel/Image is given twice"])


def test_pattern_of_another_architecture(
    pytester: pytest.Pytester, stored: Path, with_fakes: Run
) -> None:
    boot = stored / "kernels-arm64/6.12.7-arm64_6.12.7-1/boot"
    boot.mkdir(parents=True)
    (boot / "vmlinuz-6.12.7-arm64").touch()
    pytester.makepyfile("def test_it(): pass")
    result = with_fakes("--collect-only", "-q", "--kernel", "arm64:6.1*")
    assert ids(result) == ["arm64_6.12"]


def test_paths_of_the_project_start_at_its_directory(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makeini("[pytest]\nbpflink_kernels = arm64:./Image arm64:6.1\n")
    (pytester.path / "Image").touch()
    pytester.mkdir("below").joinpath("test_it.py").write_text("def test_it(): pass\n")
    os.chdir(pytester.path / "below")
    result = with_fakes("--collect-only", "-q", "--kernel", "ini")
    assert ids(result) == [f"arm64_{pytester.path.name}", "arm64_6.1"]


def test_libbpf_of_this_machine_is_none_for_another(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_it(): pass")
    result = with_fakes("--kernel", "6.1,riscv64:6.12", "--bpf-libbpf", "newest,system")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        "ERROR: --bpf-libbpf newest,system: riscv64:6.12 is of another architecture than this"
        " machine, for which libbpfs are built; its guests have their own: run it without"
        " --bpf-libbpf"
    )


@pytest.mark.usefixtures("stored")
def test_pattern_leaves_out_kernels_that_are_named(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile("def test_x(): pass")

    result = with_fakes("--collect-only", "-q", "--kernel", "6*,6.12,*")

    assert ids(result) == ["6.1", "6.12", "7.2"]


@pytest.mark.usefixtures("stored")
def test_items_run_on_each_kernel_of_a_pattern(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    with_fakes("--kernel", "6.*").assert_outcomes(passed=2)


@pytest.mark.usefixtures("stored")
def test_pattern_that_names_nothing(with_fakes: Run) -> None:
    result = with_fakes("--kernel", "5.*")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --kernel 5.[*]: there is no kernel 5.[*]; there are:",
            "  6.1 *6.1.99 *",
            "*6.12.5*",
        ]
    )


def test_pattern_of_paths(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")
    for name in ("linux-a", "linux-b", "other"):
        pytester.mkdir(name)

    assert ids(with_fakes("--collect-only", "-q", "--kernel", "./linux-*")) == [
        "linux-a",
        "linux-b",
    ]


# Reports


def properties_by_item(path: Path) -> dict[str, dict[str, str]]:
    """Return the properties of each test case in a JUnit file."""
    return {
        case.attrib["name"]: {
            found.attrib["name"]: found.attrib["value"] for found in case.iter("property")
        }
        for case in ET.parse(path).getroot().iter("testcase")  # noqa: S314 (pytest wrote it)
    }


def test_junit_has_the_exact_kernel_of_each_item(
    pytester: pytest.Pytester, with_fakes: Run
) -> None:
    pytester.makepyfile(
        """
        import os, pytest

        def test_passes(record_property):
            record_property("own", 1)

        @pytest.mark.skip
        def test_skips(): pass

        def test_crashes(request):
            if "[good]" in request.node.name:
                os._exit(1)

        def test_crashes_afterwards(request):
            if "[good]" in request.node.name:
                request.addfinalizer(lambda: os._exit(1))
        """
    )

    with_fakes("--kernel", "native,good,unbootable", "--junitxml=j.xml", "--max-worker-restart=5")

    release = os.uname().release
    found = properties_by_item(pytester.path / "j.xml")
    assert len(found) == 12
    for name, properties in found.items():
        kernel = name.partition("[")[2].rstrip("]")
        assert properties.pop("own", "1") == "1"
        where = {"kernel_where": "native" if kernel == "native" else "tcg"}
        version = {"kernel_version": release} if kernel == "native" else {}
        expected = {"kernel_id": kernel, "kernel_spec": kernel, "kernel_release": release}
        assert properties == expected | where | version, name


def test_native_alone_has_properties(pytester: pytest.Pytester, with_fakes: Run) -> None:
    pytester.makepyfile("def test_x(): pass")

    with_fakes("--kernel", "native", "--junitxml=j.xml")

    found = properties_by_item(pytester.path / "j.xml")
    assert found["test_x[native]"]["kernel_where"] == "native"
    assert found["test_x[native]"]["kernel_release"] == os.uname().release
