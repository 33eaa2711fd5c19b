"""What programs cost: runs, time, instructions, stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import BpfError, KernelInfo, NotSupported
from pytest_bpflink.bpf.verification import Verification, parse, verified_again

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import Object

PACKET = bytes(14)

has_verified_insns = KernelInfo().version >= (5, 16)


@pytest.fixture
def loaded(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object("progs/costs.bpf.c")


def test_runs_are_counted(loaded: Object) -> None:
    program = loaded.program("count")
    program.run(PACKET, repeat=3)
    with program.counting() as runs:
        assert (runs.count, runs.time) == (0, 0)
        program.run(PACKET, repeat=5)
        assert runs.count == 5
        program.run(PACKET, repeat=2)
        assert runs.count == 7
        assert 0 < runs.time < 10**9
        assert runs.recursion_misses == 0


def test_runs_after_the_end_are_not_counted(loaded: Object) -> None:
    program = loaded.program("count")
    with program.counting() as runs:
        program.run(PACKET, repeat=5)
    before = runs.time
    program.run(PACKET, repeat=5)
    with program.counting() as again:
        program.run(PACKET)
    assert (runs.count, again.count) == (5, 1)
    assert runs.time == before
    loaded.close()
    assert runs.count == 5


def test_runs_of_another_program_are_not_counted(loaded: Object) -> None:
    with loaded.program("count").counting() as runs:
        loaded.program("turn").run(PACKET)
    assert runs.count == 0


def test_counting_without_with(loaded: Object) -> None:
    runs = loaded.program("count").counting()
    with pytest.raises(BpfError, match=r"write: with program.counting\(\) as runs"):
        _ = runs.count


@pytest.mark.skipif(not has_verified_insns, reason="5.16 counts them")
def test_verified_instructions(bpf_object: Callable[..., Object]) -> None:
    once = bpf_object("progs/costs.bpf.c").program("turn").verified_insns
    often = bpf_object("progs/costs.bpf.c", rodata={"is_long": 1}).program("turn").verified_insns
    assert 10 < once < 200
    assert often > 20 * once


@pytest.mark.skipif(not has_verified_insns, reason="5.16 counts them")
def test_verified_instructions_are_those_of_the_log(loaded: Object) -> None:
    program = loaded.program("count")
    assert program.verified_insns == verified_again(loaded, program).insns


@pytest.mark.skipif(has_verified_insns, reason="5.16 counts them")
def test_verified_instructions_of_an_old_kernel(loaded: Object) -> None:
    with pytest.raises(NotSupported, match=r"needs Linux 5\.16"):
        _ = loaded.program("turn").verified_insns


def test_size_of_machine_code(loaded: Object) -> None:
    assert 20 < loaded.program("count").jited_size < 2000


def test_stack_depth(loaded: Object) -> None:
    """64 bytes of the program, 32 of the function in it, and what clang spills."""
    assert 96 <= loaded.program("turn").stack_depth <= 160
    assert loaded.program("count").stack_depth in {4, 8}


def test_verification_time(bpf_object: Callable[..., Object]) -> None:
    once = bpf_object("progs/costs.bpf.c").program("turn").verification_time
    often = bpf_object("progs/costs.bpf.c", rodata={"is_long": 1}).program("turn")
    assert 0 < once < often.verification_time


def test_verifying_again_leaves_the_maps(loaded: Object) -> None:
    program = loaded.program("count")
    program.run(PACKET)
    assert program.stack_depth
    program.run(PACKET)
    assert loaded.map("counts")[0] == 2


def test_statistics_of_a_log() -> None:
    log = (
        "func#0 @0\nverification time 123 usec\nstack depth 16+0+40\nprocessed 77 insns"
        " (limit 1000000) max_states_per_insn 0 total_states 5 peak_states 4 mark_read 1\n"
    )
    assert parse(log) == Verification(insns=77, states=4, stack_depths=(16, 0, 40), time=123)
    assert parse("invalid BTF") is None
