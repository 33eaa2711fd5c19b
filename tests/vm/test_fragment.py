"""The options that kernels need: the fragment to merge, and what a configuration lacks."""

from __future__ import annotations

import re

import pytest

from pytest_bpflink.features.options import _NEEDED as OF_FEATURES
from pytest_bpflink.selftests.conformance.rows import ROWS
from pytest_bpflink.selftests.support import absence
from pytest_bpflink.vm.kernels import fragment, kernel
from pytest_bpflink.vm.kernels.config import parse_config

BOTH = fragment.GUESTS | fragment.SELFTESTS
NAMES = [option.name for option in fragment.options(BOTH)]

# Options without a prompt, and what brings each.
BROUGHT = {"DYNAMIC_FTRACE_WITH_DIRECT_CALLS": "DYNAMIC_FTRACE"}


def everything(*but: str) -> dict[str, str]:
    """Return a configuration with all options of x86 but some."""
    return {f"CONFIG_{name}": "y" for name in {*NAMES, "X86"} - set(but)}


def test_each_option_has_its_reason_above_it() -> None:
    text = fragment.text(BOTH)
    found = re.findall(r"^# (\S.*)\nCONFIG_(\w+)=", text, re.MULTILINE)
    assert [name for _, name in found] == NAMES
    assert len(NAMES) == len(set(NAMES))
    assert parse_config(text)["CONFIG_LSM"] == "bpf"
    assert "\n# the console (arm64 only)\nCONFIG_SERIAL_AMBA_PL011_CONSOLE=y\n" in text


def test_it_has_all_that_is_looked_for() -> None:
    """No kernel is refused, and no test skipped, for an option that the fragment lacks."""
    checked = {option.name for option in fragment.options(fragment.GUESTS) if option.checked}
    assert checked >= set(kernel._NEEDED)
    looked_for = {*kernel._WANTED}
    for needed in (*OF_FEATURES.values(), *(row.options for row in ROWS)):
        looked_for |= {option.removeprefix("CONFIG_") for option in needed}
    for needed in (absence.VETH, absence.DUMMY, absence.MACVLAN):
        looked_for |= {option.removeprefix("CONFIG_") for option in needed}
    assert {BROUGHT.get(name, name) for name in looked_for} <= set(NAMES)


@pytest.mark.parametrize(
    ("config", "version", "expected"),
    [
        (everything(), (6, 12), []),
        (everything("9P_FS", "SHMEM", "VETH"), (6, 12), ["9P_FS", "VETH"]),
        (everything("FPROBE", "NETKIT"), (6, 6), ["FPROBE"]),
        (everything("FPROBE", "NETKIT"), (6, 7), ["FPROBE", "NETKIT"]),
        (everything("FPROBE", "NETKIT"), (5, 15), []),
    ],
    ids=["nothing", "others are not checked", "came later", "is there", "before both"],
)
def test_missing(config: dict[str, str], version: tuple[int, int], expected: list[str]) -> None:
    found = fragment.missing(BOTH, config, version=version)
    assert [option.name for option in found] == expected
