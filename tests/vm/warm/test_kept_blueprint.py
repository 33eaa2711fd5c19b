"""Blueprints that are kept: which words a kept command may have. No guest runs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.kernels import find
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.warm import kept_blueprint
from pytest_bpflink.vm.warm.blueprint import Blueprint
from tests.support.damage import DAMAGES, damaged
from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module", params=[False, True], ids=["TCG", "KVM"])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Blueprint:
    """Have virtme-ng compose a machine."""
    return Blueprint.draw(
        find("6.1"),
        acceleration=Acceleration(kvm=request.param, reason=""),
        directory=tmp_path_factory.mktemp("drawn"),
        memory_mib=640,
        cpus=2,
    )


@pytest.fixture
def kept(drawn: Blueprint, tmp_path: Path) -> Path:
    """Keep the machine in a file."""
    file = tmp_path / "cache/machine.json"
    kept_blueprint.keep(drawn, file)
    return file


def test_blueprint_that_was_kept_is_found(drawn: Blueprint, kept: Path) -> None:
    assert kept_blueprint.find(kept) == drawn


def test_emulated_processor_has_no_string_instructions_of_which_one_implies_another(
    drawn: Blueprint,
) -> None:
    """Linux 5.10 and 6.1 hang on QEMU 10 with -erms alone."""
    processor = drawn.command[drawn.command.index("-cpu") + 1]
    assert processor == "max,-erms,-fsrm" or processor.startswith("host")


def test_packed_machine_shares_no_directory(drawn: Blueprint, tmp_path: Path) -> None:
    packed = Blueprint.draw(
        find("6.1"),
        acceleration=Acceleration(kvm="accel=kvm" in " ".join(drawn.command), reason=""),
        directory=tmp_path,
        memory_mib=640,
        cpus=2,
        packed=True,
    )
    shares = [word for word in drawn.command if "9p" in word or word.startswith("local,")]
    assert len(shares) == 3
    assert [word for word in drawn.command if word not in {*shares, "-device", "-fsdev"}] == [
        word for word in packed.command if word != "-device"
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["-incoming", "exec:touch run"],
        ["-chardev", "pipe,id=a,path=run"],
        ["-chardev", "file,id=stdout,path=/etc/passwd"],
        ["-chardev", "file,id=console,path=/dev/null,append=on,logfile=run"],
        ["-fsdev", "local,id=virtfs5,path=/,security_model=none,multidevs=remap"],
        ["-fsdev", "local,id=virtfs5,path=/home,security_model=none,readonly=on,multidevs=remap"],
        ["-net", "tap,script=run"],
        ["-netdev", "user,id=net"],
        ["-machine", "dumpdtb=run"],
        ["-machine", "q35,firmware=run"],
        ["-device", "loader,file=run"],
        ["-device", "virtio-serial-pci,max_ports=2,romfile=run"],
        ["-plugin", "run.so"],
        ["-D", "run"],
        ["-name", "guest,process=run"],
        ["-m", "512M\n"],
        ["-m"],
        ["run"],
    ],
    ids=" ".join,
)
def test_command_with_another_word_is_not_found(kept: Path, words: list[str]) -> None:
    known = json.loads(kept.read_text())
    known["command"] += words
    kept.write_text(json.dumps(known))
    assert kept_blueprint.find(kept) is None


def test_other_program_is_not_found(kept: Path) -> None:
    known = json.loads(kept.read_text())
    known["command"][0] = "/bin/echo"
    kept.write_text(json.dumps(known))
    assert kept_blueprint.find(kept) is None


def test_other_kernel_parameter_is_not_found(kept: Path) -> None:
    known = json.loads(kept.read_text())
    known["consoles"].append("init=/run")
    kept.write_text(json.dumps(known))
    assert kept_blueprint.find(kept) is None


def test_blueprint_with_an_unknown_word_is_not_kept(drawn: Blueprint, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    unknown = Blueprint((*drawn.command, "-new-option"), drawn.consoles)
    kept_blueprint.keep(unknown, file)
    assert not file.exists()


@pytest.mark.parametrize("damage", ["cut", *DAMAGES])
def test_damaged_blueprint_is_not_found(kept: Path, damage: str) -> None:
    kept.write_bytes(damaged(kept)[damage])
    assert kept_blueprint.find(kept) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
def test_blueprint_of_another_user_is_not_found(kept: Path) -> None:
    os.chown(kept, NOBODY, -1)
    assert kept_blueprint.find(kept) is None
