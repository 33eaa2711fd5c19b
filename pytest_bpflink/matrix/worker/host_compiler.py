"""Asks the controller to compile for this worker's guest, and waits for the answer."""

from __future__ import annotations

import queue
from itertools import count
from typing import TYPE_CHECKING

from pytest_bpflink.building.host import Answer
from pytest_bpflink.matrix.messages import say

if TYPE_CHECKING:
    from execnet import Channel

    from pytest_bpflink.building.asking import Request

# A source that includes vmlinux.h takes a second; the host may have several guests to answer.
_PATIENCE_SECONDS = 120.0

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
        """Return the controller's answer; None if it has none, or is too late, which is said."""
        asked = next(self._numbers)
        say(self._channel, "compile", (asked, request.plain))
        why = _OTHERWISE
        while True:
            try:
                number, answer = self._answers.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                answer, why = None, f"the host has not answered for {_PATIENCE_SECONDS:g} s"
                break
            if number == asked:  # and not the answer to an earlier question, which came too late
                break
        if answer:
            return Answer(*answer)  # type: ignore[arg-type]
        names = ", ".join(source.name for source in request.recipe.sources)
        say(self._channel, "printed", f"{names} is compiled in the guest, which is slow: {why}")
        return None
