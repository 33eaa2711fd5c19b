"""Reading a guest's console, and opening the file for it."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm.machines import console, console_file
from tests.support.nobody import NOBODY

if TYPE_CHECKING:
    from collections.abc import Callable
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
    assert console.cause("[    1.0] debugging BUGs is fun\n") == ""


WARN = """\
------------[ cut here ]------------
proc_dir_entry 'pktgen/pgctrl' already registered
WARNING: fs/proc/generic.c:404 at proc_register+0x197/0x250, CPU#0: python/93
Call Trace:
---[ end trace 0000000000000000 ]---
""".splitlines()


def test_splats_with_their_traces() -> None:
    oops = [
        "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "Oops: 0002 [#1] PREEMPT SMP",
        "RIP: 0010:frob+0x1/0x2",
        "---[ end trace 0000000000000000 ]---",
    ]
    text = ["something", *WARN, "between", *oops, *WARN[:1], "cut off"]
    found = [text[part.start : part.stop] for part in console.splats(text)]
    assert found == [WARN, oops]


def test_splat_without_an_end_ends_with_the_next_one() -> None:
    stall = ["rcu: INFO: rcu_preempt self-detected stall on CPU", "trace", "trace"]
    text = [*stall, *WARN, *stall]
    found = [text[part.start : part.stop] for part in console.splats(text)]
    assert found == [stall, WARN, stall]


@pytest.mark.parametrize(
    "line",
    [
        "WARNING: CPU: 0 PID: 126 at fs/proc/generic.c:399 proc_register+0x1/0x2",
        "WARNING: possible circular locking dependency detected",
        "WARNING: suspicious RCU usage",
        "INFO: trying to register non-static key.",
        "BUG: KASAN: slab-use-after-free in frob+0x1/0x2",
        "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [python:7]",
        "kernel BUG at lib/list_debug.c:29!",
        "Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
        "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
        "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... }",
        "UBSAN: array-index-out-of-bounds in kernel/frob.c:1:2",
    ],
)
def test_is_a_splat(line: str) -> None:
    assert console.is_splat(line)


@pytest.mark.parametrize(
    "line",
    [
        "traps: python3[7] general protection fault ip:7f sp:7f error:0 in libc.so.6",
        "python3[7]: segfault at 0 ip 0 sp 0 error 4",
        "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
        "Warning: unable to open an initial console.",
        "rcu: Hierarchical RCU implementation.",
    ],
)
def test_is_no_splat(line: str) -> None:
    assert not console.is_splat(line)


def test_file_is_emptied_and_then_appended_to(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_text("of an earlier run")
    for text, empty in ((b"one ", True), (b"two", False)):
        with console_file.appending(log, empty=empty) as file:
            os.write(file, text)
    assert log.read_text() == "one two"


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (os.symlink, "a symbolic link is not followed"),
        (os.link, "the file has another hard link"),
    ],
)
def test_link_in_place_of_the_file_is_not_followed(
    tmp_path: Path, plant: Callable[[Path, Path], None], why: str
) -> None:
    target, log = tmp_path / "target", tmp_path / "console.log"
    target.write_text("another's")
    plant(target, log)

    with pytest.raises(OSError, match=why) as caught, console_file.appending(log, empty=True):
        pass

    assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, str(log))
    assert target.read_text() == "another's"
    assert console.lines(log) == ([] if log.is_symlink() else ["another's"])


def test_pipe_in_place_of_the_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "console.log")
    log = tmp_path / "console.log"
    with pytest.raises(OSError, match="No such device") as caught, console_file.appending(log):
        pass
    assert caught.value.errno == errno.ENXIO


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("mode", "owner", "refused"),
    [(0o1777, NOBODY, True), (0o775, NOBODY, True), (0o1777, 0, False), (0o755, NOBODY, False)],
)
def test_directory_behind_another_user_s_link_is_used_only_if_no_other_user_could_make_the_link(
    tmp_path: Path, *, mode: int, owner: int, refused: bool
) -> None:
    shared, target = tmp_path / "shared", tmp_path / "target"
    shared.mkdir()
    shared.chmod(mode)
    target.mkdir()
    (shared / "logs").symlink_to(target)
    os.lchown(shared / "logs", owner, owner)

    raises = pytest.raises(OSError, match="another user may have made this symbolic link")
    opening = console_file.appending(shared / "logs/6.1-1.log")
    with raises if refused else nullcontext() as caught, opening:
        pass

    assert (target / "6.1-1.log").exists() != refused
    if caught:
        assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, str(shared / "logs"))


# How a worker ended


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("[   12.345678] bpflink: worker 68 ended by signal 11", (68, -11)),
        ("bpflink: worker 68 ended with status 3", (68, 3)),
        ("[   12.345678][    T1] bpflink: worker 68 ended with status 0", (68, 0)),
        ("bpflink: worker 68 ended by signal 11 or so", None),
        ("bpflink: worker 68 ended by signal 0", None),
        ("bpflink: worker ended by signal 11", None),
        ("it said: bpflink: worker 68 ended by signal 11", None),
    ],
)
def test_only_the_exact_line_says_how_a_worker_ended(
    line: str, end: tuple[int, int] | None
) -> None:
    found = console.worker_end(f"before\n{line}\n[   12.4] reboot: Power down")
    assert found == (end and (*end, "before"))


def test_an_oom_kill_is_that_of_the_process() -> None:
    killed = "Memory cgroup out of memory: Killed process 68 (python) total-vm:1kB"
    text = f"Out of memory: Killed process 6 (sh) total-vm:1kB\n[    1.000000] {killed}"

    assert console.oom_kill(text, 68) == killed
    assert console.oom_kill(text, 8) == ""


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("bpflink: this kernel lacks CONFIG_9P_FS", ("CONFIG_9P_FS",)),
        (
            "[    7.743903][    T1] bpflink: this kernel lacks CONFIG_NET_9P_VIRTIO CONFIG_9P_FS",
            ("CONFIG_NET_9P_VIRTIO", "CONFIG_9P_FS"),
        ),
        ("mount: mounting /dev/root on /newroot/ failed: No such device", ("CONFIG_9P_FS",)),
        (
            "mount: mounting /dev/root on /newroot/ failed: Invalid argument",
            ("CONFIG_NET_9P_VIRTIO",),
        ),
        (
            "mount: mounting /dev/root on /newroot/ failed: No such file or directory",
            ("CONFIG_VIRTIO_PCI",),
        ),
        ("bpflink: this kernel lacks nothing", ()),
        ("he said: bpflink: this kernel lacks CONFIG_9P_FS", ()),
        ("mount: mounting /dev/root on /newroot/ failed: Permission denied", ()),
    ],
)
def test_options_that_a_guest_lacks_are_read(line: str, options: tuple[str, ...]) -> None:
    assert console.lacking(["[    0.0] Linux version 6.1", line, "reboot"]) == options
