"""Maps and global variables of programs of which only a link, a pin or an id is known."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import (
    BpfError,
    Link,
    LoadedProgram,
    Map,
    Program,
    ProgType,
    TcAction,
    UnknownName,
    eventually,
)
from pytest_bpflink.introspection import ids

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_bpflink import BpfFs, Cgroup, Object

MAPS = {"daemon.bss", "daemon.data", "daemon.rodata", "limits_of_each_"}
A_PACKET = 3 * 7


@pytest.fixture
def pin(bpf_object: Callable[..., Object], cgroup: Cgroup, bpffs: BpfFs) -> Path:
    """The pin of a link whose daemon has ended."""
    daemon = bpf_object("progs/daemon.bpf.c")
    with daemon.program("count_each_packet").attach(cgroup) as link:
        link.pin(bpffs / "link")
    daemon.close()
    return bpffs / "link"


@pytest.fixture
def link(pin: Path) -> Iterator[Link]:
    with Link.open(pin) as link:
        yield link


@pytest.fixture
def running(link: Link) -> LoadedProgram:
    return link.program


def send(cgroup: Cgroup) -> None:
    with cgroup.entered(), socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("127.0.0.1", 9))


def test_global_variables_are_read_and_written(running: LoadedProgram, cgroup: Cgroup) -> None:
    send(cgroup)
    assert running.maps[".bss"]["counter"] == A_PACKET
    data = running.maps[".data"]
    assert data["limits"] == {"packets": 2, "bytes": 4096}
    assert data["mode"] == 1
    data["limits"] = {"packets": 1}
    assert data["limits"] == {"packets": 1, "bytes": 4096}
    with pytest.raises(PermissionError):
        send(cgroup)
    assert running.maps[".bss"]["counter"] == 2 * A_PACKET
    data["mode"] = -1
    assert data["mode"] == -1


def test_writing_a_variable_leaves_the_others(running: LoadedProgram, cgroup: Cgroup) -> None:
    send(cgroup)
    running.maps[".bss"]["greeting"] = b"hello"
    assert running.maps[".bss"][0] == {"counter": A_PACKET, "greeting": b"hello"}
    assert dict(running.maps[".bss"]) == {0: {"counter": A_PACKET, "greeting": b"hello"}}
    with pytest.raises(TypeError, match=r"set one by one: map\['NAME'\] = value"):
        running.maps[".bss"][0] = {"counter": 0}


def test_constants_are_frozen(running: LoadedProgram) -> None:
    constants = running.maps[".rodata"]
    assert constants["step"] == 3
    with pytest.raises(BpfError, match=r"write step in \.rodata") as raised:
        constants["step"] = 4
    assert raised.value.errno == errno.EACCES
    assert constants["step"] == 3


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("daemon.bss", "daemon.bss"),
        (".bss", "daemon.bss"),
        ("daemonical.bss", "daemon.bss"),
        (".data", "daemon.data"),
        ("limits_of_each_client", "limits_of_each_"),
        ("limits_of_each_", "limits_of_each_"),
        (".data.of_its_own_section", ".data.of_its_ow"),
        ("daemon.data.of_its_own_section", ".data.of_its_ow"),
    ],
)
def test_names_of_maps(running: LoadedProgram, name: str, kept: str) -> None:
    assert running.maps[name].name == kept
    assert name in running.maps


@pytest.mark.parametrize("name", [".bs", "bss", "other.bss", "aemon.bss", ".", "limits"])
def test_unknown_name_of_a_map(running: LoadedProgram, name: str) -> None:
    assert name not in running.maps
    with pytest.raises(UnknownName) as raised:
        running.maps[name]
    assert f"find map {name!r} in program count_each_packet" in str(raised.value)
    assert ".data.of_its_ow, daemon.bss, daemon.data" in str(raised.value)


def test_unknown_variable(running: LoadedProgram) -> None:
    with pytest.raises(UnknownName, match="there are: counter, greeting"):
        running.maps[".bss"]["count"]
    assert "count" not in running.maps[".bss"]


def test_keys_and_values_have_types(running: LoadedProgram, cgroup: Cgroup) -> None:
    send(cgroup)
    client = {"cgroup": 7, "port": 3, "more": 0}
    limits = {"packets": 2, "bytes": 4096}
    assert list(running.maps["limits_of_each_client"].items()) == [(client, limits)]
    assert set(running.maps) == {*MAPS, ".data.of_its_ow"}


def test_what_a_link_has_is_closed_with_it(pin: Path) -> None:
    with Link.open(pin) as link:
        running = link.program
        bss = running.maps[".bss"]
        running.close()
        bss.close()
        assert bss["counter"] == 0  # both are lent
    with pytest.raises(BpfError, match=r"use program \d+: EBADF"):
        _ = running.fd
    with pytest.raises(BpfError, match=r"use map \d+: EBADF"):
        bss[0]
    with pytest.raises(BpfError, match=r"EBADF.*closed"):
        bss["counter"]
    with pytest.raises(BpfError) as raised:
        _ = link.program
    assert raised.value.errno == errno.EBADF


def test_updated_link_has_the_new_program(
    link: Link, running: LoadedProgram, bpf_object: Callable[..., Object]
) -> None:
    before = running.id
    new = bpf_object("progs/daemon.bpf.c", only=["let_all_pass"]).program("let_all_pass")
    link.update(new)
    assert link.program.id == new.id != before
    assert link.program.name == "let_all_pass"
    assert set(link.program.maps) <= {"daemon.rodata"}  # libbpf binds it to each program
    assert running.id == before
    assert running.maps[".bss"]["counter"] == 0


def test_nothing_is_left_of_a_running_program(pin: Path) -> None:
    with Link.open(pin) as link:
        program = link.program.id
        maps = [each.id for each in link.program.maps.values()]
        assert len(maps) == 5
        link.unpin()
    eventually(lambda: not ids.is_alive("program", program), what="the program ends")
    eventually(lambda: not any(ids.is_alive("map", one) for one in maps), what="the maps end")


@pytest.mark.parametrize("_number", range(10))
def test_looking_at_a_program_array_does_not_keep_it(
    bpf_object: Callable[..., Object], cgroup: Cgroup, bpffs: BpfFs, _number: int
) -> None:
    """From 6.12 on it would if it was closed before the kernel has cleared it."""
    daemon = bpf_object("../../ledger/progs/tail_call.bpf.c")
    with daemon.program("entry").attach(cgroup) as link:
        link.pin(bpffs / "link")
    jumps = daemon.map("jumps").id
    daemon.close()  # the kernel begins to clear it
    for _ in range(3):
        with Map.by_id(jumps):
            pass
    with Link.open(bpffs / "link") as link:
        assert link.program.maps["jumps"].id == jumps
    (bpffs / "link").unlink()
    eventually(lambda: not ids.is_alive("map", jumps), what="the program array ends")


@pytest.fixture
def pinned(bpf_object: Callable[..., Object], bpffs: BpfFs) -> Path:
    bpf_object("progs/daemon.bpf.c").program("add_seven_to_the_counter").pin(bpffs / "program")
    return bpffs / "program"


def test_opened_program(pinned: Path) -> None:
    with Program.open(pinned) as program:
        assert program.name == "add_seven_to_the_counter"
        assert (program.type, program.section) == (ProgType.SCHED_CLS, "")
        assert program.run(bytes(64), ctx={"mark": 5}).retval is TcAction.SHOT
        assert program.run(bytes(64)).retval is TcAction.OK
        assert program.maps["daemon.bss"]["counter"] == 14
        assert program.pointer == 0
        assert repr(program) == "<Program add_seven_to_the_counter>"
        with program.counting() as runs:
            program.run(bytes(64), repeat=5)
        assert runs.count == 5
    program.close()
    with pytest.raises(BpfError) as raised:
        program.run(bytes(64))
    assert raised.value.errno == errno.EBADF


def test_program_by_id(running: LoadedProgram) -> None:
    with Program.by_id(running.id) as program:
        assert program.id == running.id
        assert program.name == "count_each_packet"  # of which the kernel keeps 15 characters
        assert program.maps[".bss"].id == running.maps[".bss"].id


def test_program_of_an_object_has_the_maps_of_the_object(
    bpf_object: Callable[..., Object],
) -> None:
    daemon = bpf_object("progs/daemon.bpf.c")
    adding = daemon.program("add_seven_to_the_counter")
    assert adding.maps["daemon.bss"].id == daemon.map("daemon.bss").id
    assert set(adding.maps) <= {"daemon.bss", "daemon.rodata"}  # libbpf binds that to each program
    adding.run(bytes(64))
    adding.maps[".bss"]["counter"] += 1
    assert daemon.bss["counter"] == daemon.map("daemon.bss")["counter"] == 8


def test_link_is_updated_to_an_opened_program(
    link: Link, cgroup: Cgroup, bpf_object: Callable[..., Object], bpffs: BpfFs
) -> None:
    bpf_object("progs/daemon.bpf.c").program("let_all_pass").pin(bpffs / "new")
    old = link.program
    with Program.open(bpffs / "new") as new:
        link.update(new, old=old)
        assert link.info.prog_id == new.id
        with Link.by_id(link.id) as same:
            same.update(old)
            assert link.info.prog_id == old.id
        link.update(new)
        assert link.info.prog_id == new.id
    send(cgroup)
    assert old.maps[".bss"]["counter"] == 0


def test_program_that_no_object_has_is_not_attached(pinned: Path, cgroup: Cgroup) -> None:
    uses: list[Callable[[Program], object]] = [
        lambda program: program.attach(cgroup),
        lambda program: program.set_autoload(False),
        lambda program: program.set_type(ProgType.XDP),
        lambda program: program.set_attach_target("vfs_read"),
        lambda program: program.set_log_level(1),
        lambda program: program.prints,
        lambda program: program.stack_depth,
        lambda program: program.expected_attach_type,
    ]
    with Program.open(pinned) as program:
        for use in uses:
            with pytest.raises(BpfError, match="that takes a program of an Object") as raised:
                use(program)
            assert raised.value.errno == errno.EINVAL
        with pytest.raises(BpfError, match=r"^attach program add_seven"):
            program.attach(cgroup)


def test_program_that_is_not_there(bpffs: BpfFs, pin: Path) -> None:
    refused: list[tuple[int, Callable[[], Program]]] = [
        (errno.ENOENT, lambda: Program.open(bpffs / "none")),
        (errno.EINVAL, lambda: Program.open(pin)),
        (errno.ENOENT, lambda: Program.by_id(2**31 - 1)),
    ]
    for number, open_it in refused:
        with pytest.raises(BpfError) as raised:
            open_it()
        assert raised.value.errno == number


def test_program_that_is_never_closed(pinned: Path) -> None:
    program: Program | None = Program.open(pinned)
    with pytest.warns(ResourceWarning, match="<Program add_seven_to_the_counter> was never closed"):
        program = None
    assert program is None
