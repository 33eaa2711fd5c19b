"""`bpflink kernels check` and `config`: what a kernel's configuration lacks, and what to add."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import fragment
from tests.support.command import bpflink, table_of
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "6.6.1-own"
SELFTESTS = [f"CONFIG_{each.name}" for each in fragment.options(fragment.SELFTESTS) if each.checked]


def tree(directory: Path, *, but: tuple[str, ...] = (), modules: tuple[str, ...] = ()) -> Path:
    """Make a kernel with all options but some; MODULES are options of value m."""
    both = fragment.text(fragment.GUESTS) + fragment.text(fragment.SELFTESTS)
    config = [line for line in both.splitlines() if line.partition("=")[0] not in but]
    config = [line.replace("=y", "=m") if line[:-2] in modules else line for line in config]
    write(directory / f"boot/vmlinuz-{RELEASE}")
    write(directory / f"boot/config-{RELEASE}", "CONFIG_X86=y\n" + "\n".join(config))
    return directory


def test_check_of_a_kernel_that_lacks_nothing(tmp_path: Path) -> None:
    kernel = tree(tmp_path / "own")
    done = bpflink("kernels", "check", kernel)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"Linux {RELEASE}, configured by {kernel}/boot/config-{RELEASE}",
        "selftests: nothing is missing",
        "guests: yes",
    ]


def test_check_of_a_kernel_for_guests_only(tmp_path: Path) -> None:
    kernel = tree(tmp_path, but=tuple(SELFTESTS))
    done = bpflink("kernels", "check", kernel)
    assert (done.returncode, done.stderr) == (0, "")
    # NETKIT came with Linux 6.7.
    assert [row[:2] for row in table_of(done.stdout) if row[0].startswith("CONFIG")] == [
        [name, "selftests"] for name in SELFTESTS if name != "CONFIG_NETKIT"
    ]
    missing = len(SELFTESTS) - 1
    assert f"selftests: {missing} options are missing: what needs them is skipped" in done.stdout
    assert done.stdout.endswith("guests: yes\n")


def test_check_of_a_kernel_that_is_no_guest(tmp_path: Path) -> None:
    kernel = tree(tmp_path / "own, with spaces", but=("CONFIG_9P_FS", "CONFIG_PROC_FS"))
    done = bpflink("kernels", "check", kernel)
    assert done.returncode == 1
    assert done.stderr == (
        "bpflink: guests can't run on it, for want of CONFIG_PROC_FS: add what"
        " 'bpflink kernels config' prints, and rebuild\n"
    )
    assert table_of(done.stdout)[:2] == [
        ["CONFIG_PROC_FS", "guests", "/proc"],
        ["CONFIG_9P_FS", "guests", "the", "host's", "files"],
    ]
    assert "guests: " not in done.stdout


def test_check_of_a_kernel_whose_guests_are_packed(tmp_path: Path) -> None:
    done = bpflink("kernels", "check", tree(tmp_path, but=("CONFIG_9P_FS",)))
    assert done.returncode == 0
    assert done.stdout.endswith("guests: packed, without the host's files (no 9p)\n")


def test_check_for_programs(tmp_path: Path) -> None:
    kernel = tree(tmp_path, but=("CONFIG_OVERLAY_FS", "CONFIG_VETH"))
    done = bpflink("kernels", "check", kernel, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "release": RELEASE,
        "config": f"{kernel}/boot/config-{RELEASE}",
        "guests": False,
        "missing": [
            {
                "option": "CONFIG_OVERLAY_FS",
                "needed_by": "guests",
                "what_for": "writes to them, which stay in the guest",
            },
            {
                "option": "CONFIG_VETH",
                "needed_by": "selftests",
                "what_for": "pairs of devices, for XDP and TCX",
            },
        ],
    }


def test_check_finds_modules_missing(tmp_path: Path) -> None:
    kernel = tree(tmp_path, modules=("CONFIG_OVERLAY_FS",))
    done = bpflink("kernels", "check", kernel)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "bpflink: guests can't run on it, for want of CONFIG_OVERLAY_FS: add"
    )
    assert f"it is a module, and its modules are missing: there is no lib/modules/{RELEASE} in" in (
        done.stdout
    )
    (kernel / f"lib/modules/{RELEASE}").mkdir(parents=True)
    assert bpflink("kernels", "check", kernel).returncode == 0


def test_check_of_an_unknown_configuration(tmp_path: Path) -> None:
    image = write(tmp_path / f"vmlinuz-{RELEASE}")
    done = bpflink("kernels", "check", image)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"bpflink: the configuration of Linux {RELEASE} is not known, so nothing was checked:"
        f" put it beside the image, as {tmp_path}/config\n"
    )


def test_check_of_what_is_no_kernel(tmp_path: Path) -> None:
    done = bpflink("kernels", "check", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"bpflink: {tmp_path}/none does not exist\n"


@pytest.mark.parametrize("full", [False, True])
def test_config(full: bool) -> None:  # noqa: FBT001
    arguments = ("kernels", "config", *(["--full"] if full else []))
    done = bpflink(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    groups = fragment.GUESTS | (fragment.SELFTESTS if full else {})
    assert done.stdout.splitlines() == fragment.text(groups).splitlines()
    assert ("CONFIG_NETKIT=y" in done.stdout) is full
    listed = json.loads(bpflink(*arguments, "--json").stdout)
    assert listed["CONFIG_9P_FS"] == "y"
    assert listed.get("CONFIG_LSM") == ("bpf" if full else None)
