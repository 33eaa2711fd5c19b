"""What the controller says of a worker that died, by the console of its guest."""

from __future__ import annotations

import pytest

from pytest_bpflink.matrix.guests import last_words
from pytest_bpflink.matrix.guests.last_words import LastWords

ENDED = "[   71.142470] bpflink: worker 175 ended by signal 6"
PANIC = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000007"


@pytest.mark.parametrize(
    ("console", "words"),
    [
        # While a plain guest powers off.
        (f"{ENDED}\n[   71.234356] {PANIC}", LastWords("", "was killed by SIGABRT")),
        (
            f"[   71.1] {PANIC}\n{ENDED}",
            LastWords(
                f"The end of the guest's console:\n[   71.1] {PANIC}",
                "was killed by SIGABRT",
                panic=PANIC,
            ),
        ),
        (
            f"[   71.234356] {PANIC}",
            LastWords(f"The end of its console:\n[   71.234356] {PANIC}", panic=PANIC),
        ),
        ("", LastWords("Its console says nothing.")),
    ],
)
def test_only_a_panic_before_the_workers_end_is_its_cause(console: str, words: LastWords) -> None:
    assert last_words.in_guest(console_tail=console, errors_tail="", verdict="") == words


def test_panic_with_a_long_trace_is_quoted_from_its_first_line_on() -> None:
    panic = "Kernel panic - not syncing: sysrq triggered crash"
    trace = "\n".join(f"[   25.3] function{number}+0x1/0x2" for number in range(60))
    words = last_words.in_guest(
        console_tail=f"before\n[   25.3] {panic}\n{trace}", errors_tail="", verdict=""
    )
    assert words == LastWords(f"The end of its console:\n[   25.3] {panic}\n{trace}", panic=panic)
