"""Runs each trial for its part of the time, and prints a table.

    python -m soak [--minutes 20] [--seed N] [--only NAME] [KERNEL...]

Needs root, two processors, and the named kernels in the store. The exit status is 1 if anything was
wrong; the outputs of all sessions are kept then. With the same seed the same things are tried, at
moments that are as near as the machine's speed allows.
"""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from . import trials
from .stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Trial = Callable[[Stage, random.Random], Generator[trials.Outcome]]

KERNELS = ["6.1", "7.2"]

# Each trial's part of the time. A trial that ends early leaves its time to the next ones.
TRIALS: dict[Trial, float] = {
    trials.items: 5,
    trials.hostile_specs: 1,
    trials.hostile_texts: 1,
    trials.environments: 3,
    trials.full_disk: 2,
    trials.damage: 3,
    trials.parallel: 3,
    trials.kills: 3,
}


@dataclass
class Row:
    """A trial in the table."""

    name: str
    times: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    last: str = ""


def main() -> int:
    """Run the trials, print what they found, and return the exit status."""
    options = _options()
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    chance = random.Random(options.seed)
    chosen = {trial: part for trial, part in TRIALS.items() if options.only in trial.__name__}
    print(f"seed {options.seed}, {options.minutes} minutes, kernels {' '.join(options.kernels)}")
    rows = []
    left, parts = options.minutes * 60.0, sum(chosen.values())
    for trial, part in chosen.items():
        start = time.monotonic()
        stage = Stage(directory / trial.__name__, options.kernels)
        rows.append(_row(trial, stage, chance, seconds=left * part / parts))
        stage.close()
        left -= time.monotonic() - start
        parts -= part
    _print(rows)
    if any(row.problems for row in rows):
        print(f"The outputs of all sessions are in {directory}.")
        return 1
    shutil.rmtree(directory)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("soak", description="Use the plugin for a long time, roughly.")
    parser.add_argument("kernels", nargs="*", default=KERNELS, metavar="KERNEL")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    names = ", ".join(trial.__name__ for trial in TRIALS)
    parser.add_argument("--only", default="", metavar="NAME", help=f"Trials, of: {names}")
    return parser.parse_args()


def _row(trial: Trial, stage: Stage, chance: random.Random, *, seconds: float) -> Row:
    row = Row(trial.__name__.replace("_", " "))
    start = time.monotonic()
    with closing(trial(stage, chance)) as outcomes:
        for outcome in outcomes:
            row.times += 1
            row.last = outcome.what
            row.problems += [f"{outcome.what[:100]!r}: {problem}" for problem in outcome.problems]
            row.seconds = time.monotonic() - start
            sign = "FAILED" if outcome.problems else "ok"
            print(f"{row.seconds:7.1f} s  {row.name}: {outcome.what[:100]!r}: {sign}", flush=True)
            if row.seconds > seconds:
                break
    return row


def _print(rows: list[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Trial", no_wrap=True)
    for head in ("times", "problems", "seconds"):
        table.add_column(head, justify="right")
    table.add_column("the last")
    for row in rows:
        numbers = (str(row.times), str(len(row.problems)), f"{row.seconds:.0f}")
        table.add_row(row.name, *numbers, repr(row.last[:100])[1:-1])
    console = Console(highlight=False, markup=False)
    console.print(table)
    for row in rows:
        for problem in row.problems:
            console.print(f"{row.name}: {problem[:300]}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
