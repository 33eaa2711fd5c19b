"""Reading a guest's console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_bpflink.vm import console

if TYPE_CHECKING:
    from pathlib import Path

PANIC = (
    b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2)\r\n"
    b"[    1.0] Linux version 6.1.0\r\n\r\n"
    b"[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000000\r\n"
    b"[    2.0] Oops: 0002 [#1] PREEMPT SMP\r\n"
    b"[    2.1] RIP: 0010:frob+0x1/0x2\r\n"
    b"[    2.2] Kernel panic - not syncing: Fatal exception\r\n"
    b"[    2.3] Kernel Offset: disabled"
)


def test_tail_is_the_last_lines_without_control_sequences(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(PANIC.partition(b"[    2.0]")[0])
    assert console.tail(log, count=1) == "[    1.0] Linux version 6.1.0"
    assert console.lines(log)[0] == "SeaBIOS (version 1.16.2)"
    assert console.lines(log)[1] == "[    1.0] Linux version 6.1.0"


def test_tail_goes_back_to_the_oops(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(PANIC.replace(b"RIP:", b"trace\n" * 50 + b"RIP:"))
    assert console.tail(log, count=2).startswith("[    2.0] BUG: kernel NULL pointer")


def test_fatal_lines_in_order(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(PANIC)
    assert [line.partition("] ")[2].partition(":")[0] for line in console.fatal(log)] == [
        "BUG",
        "Oops",
        "Kernel panic - not syncing",
    ]


def test_quiet_console_has_nothing_fatal(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"[    1.0] debugging BUGs is fun\n")
    assert console.fatal(log) == []


def test_long_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"noise\n" * 1_000_000 + b"the end\n")
    assert console.tail(log, count=1) == "the end"
    assert len(console.lines(log)) < 100_000


def test_no_log_is_no_lines(tmp_path: Path) -> None:
    assert console.tail(tmp_path / "console.log", count=5) == ""


def test_the_cause_is_the_first_fatal_line_without_its_time() -> None:
    assert console.cause(
        "[    1.0] fine\n[    2.0][  T1] Oops: 0002\n[    2.1] Kernel panic\n"
    ) == ("Oops: 0002")
    assert console.cause("nothing\n") == ""
