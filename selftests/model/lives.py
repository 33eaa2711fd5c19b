"""Lives for some time: in batches, each of which a seed repeats."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from pytest_bpflink.selftests.model.machine import DifferenceError, LinkLives

if TYPE_CHECKING:
    from pytest_bpflink import KernelInfo
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.model.world import World

_BATCH = 10
_STEPS = 30
_SHRINKING_SECONDS = 60

_SETTINGS = settings(
    max_examples=_BATCH,
    stateful_step_count=_STEPS,
    phases=(Phase.generate, Phase.shrink),
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    print_blob=False,
    verbosity=Verbosity.quiet,
    suppress_health_check=tuple(HealthCheck),
)


@dataclass
class Lived:
    """What came of some time: lives, and the seed of the next batch."""

    seed: int
    lives: int = 0
    steps: int = 0

    def __str__(self) -> str:
        return f"{self.lives} lives of {self.steps} steps"


class LifeFailedError(AssertionError):
    """A life in which kernel and oracle differ; the text has the life as a plain test."""

    def __init__(self, difference: DifferenceError, lived: Lived, note: str = "") -> None:
        self.life = difference.life
        super().__init__(
            f"{difference}\n{note}The same lives: --bpf-model-seed {lived.seed}. This life as a"
            f" test, for a file in selftests/:\n\n{self.life}"
        )


class _EnoughError(BaseException):
    """Ends the search for a shorter life: no Exception, which would be one more difference."""


def live(world: World, rows: dict[str, Row], kernel: KernelInfo, *, lived: Lived) -> None:
    """Live a batch of lives. Raises `LifeFailedError` with the shortest life that was found."""
    failed: list[LinkLives] = []
    last: LinkLives | None = None
    end = math.inf

    class Lives(LinkLives):
        def __init__(self) -> None:
            nonlocal last, end
            if last and last.difference:
                failed.append(last)
                end = min(end, time.monotonic() + _SHRINKING_SECONDS)
            elif last:
                lived.steps += last.life.steps
            if time.monotonic() > end:
                raise _EnoughError
            super().__init__(world, rows, kernel)
            lived.lives += 1
            last = self

    world.log(f"lives of --bpf-model-seed {lived.seed}")
    try:
        run_state_machine_as_test(seed(lived.seed)(Lives), settings=_SETTINGS)
    except DifferenceError as error:
        raise LifeFailedError(error, lived) from None
    except (Exception, _EnoughError) as error:
        found = [each.difference for each in (*failed, last) if each and each.difference]
        if not found:
            raise
        # Or else the life did not go the same way when Hypothesis repeated it.
        is_enough = time.monotonic() > end
        note = f"Not made any shorter after {_SHRINKING_SECONDS} s" if is_enough else f"{error}"
        shortest = min(found, key=lambda difference: difference.life.steps)
        raise LifeFailedError(shortest, lived, f"{note}\n") from None if is_enough else error
    lived.seed += 1
