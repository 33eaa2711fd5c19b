"""Asks the controller to compile for this worker's guest, and waits for the answer."""

from __future__ import annotations

import errno
import queue
from itertools import count
from typing import TYPE_CHECKING

from pytest_bpflink.building.host import Answer
from pytest_bpflink.matrix.messages import say

if TYPE_CHECKING:
    from execnet import Channel

    from pytest_bpflink.building.asking import Request

# A source that includes vmlinux.h takes a second; the host may have several guests to answer. For a
# guest of another architecture it first reads the types of its kernel, and there is no other way.
_PATIENCE_SECONDS, _WITHOUT_CLANG_SECONDS = 120.0, 600.0

_OTHERWISE = (
    "clang's variables (CPATH and others) are not the host's here; set them before pytest starts,"
    " or give bpf_object() include= and defines="
)


class HostCompiler:
    """The questions of a worker, and the answers as they come."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._answers: queue.SimpleQueue[tuple[int, tuple[object, ...] | None]]
        self._answers = queue.SimpleQueue()

    def take(self, message: tuple[int, tuple[object, ...] | None]) -> None:
        """Take an answer from the controller; any thread may call it."""
        self._answers.put(message)

    def ask(self, request: Request) -> Answer | None:
        """Return the controller's answer; None if this guest is to compile, which is said.

        If the controller has no answer, or is too late, and this guest has no clang, the answer is
        the reason.
        """
        from pytest_bpflink.building import clang

        can_compile = clang.clang() is not None
        patience = _PATIENCE_SECONDS if can_compile else _WITHOUT_CLANG_SECONDS
        asked = next(self._numbers)
        say(self._channel, "compile", (asked, request.plain))
        why = _OTHERWISE
        while True:
            try:
                number, answer = self._answers.get(timeout=patience)
            except queue.Empty:
                answer, why = None, f"the host has not answered for {patience:g} s"
                break
            if number == asked:  # and not the answer to an earlier question, which came too late
                break
        if answer:
            return Answer(*answer)  # type: ignore[arg-type]
        if not can_compile:
            hint = f"clang is not installed in this guest, and {why}"
            doing = f"compile {request.recipe.sources[0]}"
            return Answer(None, hint=hint, doing=doing, errno=errno.ENOENT)
        names = ", ".join(source.name for source in request.recipe.sources)
        say(self._channel, "printed", f"{names} is compiled in the guest, which is slow: {why}")
        return None
