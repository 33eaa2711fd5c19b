"""What programs print, read by a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfStream, KernelInfo, NotSupported
from pytest_bpflink.bpf.events.trace import parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfTrace, Object

PACKET = bytes(20)


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/prints.bpf.c")


def test_lines_are_what_was_printed(loaded: Object, bpf_trace: BpfTrace) -> None:
    assert bpf_trace.lines == []
    loaded.program("print").run(PACKET, ctx={"mark": 3})
    assert bpf_trace.lines == ["a packet of 20 bytes", "its mark: 3"]
    loaded.program("print").run(PACKET, ctx={"mark": 4})
    assert bpf_trace.lines[2:] == ["a packet of 20 bytes", "its mark: 4"]


def test_lines_of_the_test_before_are_gone(loaded: Object, bpf_trace: BpfTrace) -> None:
    assert bpf_trace.lines == []
    loaded.program("print_lines").run(PACKET)
    assert bpf_trace.lines == ["one\ntwo\nthree times"]


def test_what_was_printed_can_be_forgotten(loaded: Object, bpf_trace: BpfTrace) -> None:
    loaded.program("print").run(PACKET)
    bpf_trace.clear()
    assert bpf_trace.lines == []


def test_printed_has_a_time(loaded: Object, bpf_trace: BpfTrace) -> None:
    loaded.program("print").run(PACKET, repeat=2)
    times = [each.seconds for each in bpf_trace.printed]
    assert len(times) == 4
    assert times == sorted(times)
    assert times[0] > 0


def test_many_lines(loaded: Object, bpf_trace: BpfTrace) -> None:
    loaded.program("print").run(PACKET, repeat=1000)
    assert len(bpf_trace.lines) == 2000


def test_lines_that_were_overwritten_are_told(loaded: Object, bpf_trace: BpfTrace) -> None:
    """A trace buffer has 1.4 MB for each processor, and these lines need more."""
    loaded.program("print").run(PACKET, repeat=30_000)
    lines = bpf_trace.lines
    assert len(lines) < 60_000
    assert any("texts were lost here" in line for line in lines)


def test_programs_that_print(loaded: Object) -> None:
    found = {name: program.prints for name, program in loaded.programs.items()}
    assert found == {"print": True, "print_lines": True, "is_silent": False}


def test_lines_of_trace_pipe() -> None:
    text = (
        "           <...>-2323    [001] b..11 44015.219961: bpf_trace_printk: hello 20\n\n"
        " a-name [x]-17      [000] d.s1.  4.200000: bpf_trace_printk: 1: bpf_trace_printk: 2\n"
        "CPU:1 [LOST 5 EVENTS]\n"
    )
    assert [(each.tid, each.seconds, each.text) for each in parse(text)] == [
        (2323, 44015.219961, "hello 20"),
        (17, 4.2, "1: bpf_trace_printk: 2"),
        (0, 0.0, "(5 texts were lost here)"),
    ]


@pytest.mark.skipif(KernelInfo().version < (7, 0), reason="bpf_stream_vprintk of 7.0")
def test_streams_of_a_program(bpf_object: Callable[..., Object]) -> None:
    program = bpf_object("progs/streams.bpf.c").program("print")
    assert [program.run().retval, program.run().retval] == [0, 0]
    assert program.read_stream() == "a number: 7\n" * 2
    assert program.read_stream() == ""
    assert program.read_stream(BpfStream.STDERR) == ""


@pytest.mark.skipif(KernelInfo().version >= (6, 17), reason="streams came with 6.17")
def test_kernel_without_streams(loaded: Object) -> None:
    with pytest.raises(NotSupported, match=r"read STDOUT of program print: .*needs Linux 6.17"):
        loaded.program("print").read_stream()
