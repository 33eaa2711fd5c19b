"""Runs each session, prints its line, and a table at the end.

    python -m machines [--only NAME] [--first N] [--minutes M] [--list]

Needs root. The exit status is 1 if a session failed; the outputs of all sessions are kept then.
Sessions that would not end within the time are named.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

from .stage import SessionError, Stage

# Modules of this folder, each with a function `run(stage)` that returns what passed, in words; and
# the minutes that it takes on two idle processors, with an empty cache.
SESSIONS = {
    "arm64": 2,
    "cloud": 3,
    "kvm": 11,
    "model": 4,
    "riscv64": 2,
    "s390x": 3,
    "small_kernel": 15,
    "sources": 4,
    "trixie": 5,
}


def main() -> int:
    """Run the sessions that the command line asks for, and return the exit status."""
    options = _options()
    names = [name for name in SESSIONS if options.only in (None, name)]
    first = options.first % len(names)
    names = names[first:] + names[:first]
    if options.list:
        for name in names:
            print(f"{_spelled(name):<16}{_summary(name)}")
        return 0
    directory = Path(tempfile.mkdtemp(prefix="machines-"))
    end = time.monotonic() + options.minutes * 60
    lines, failed, left = [], False, []
    for name in names:
        if time.monotonic() + SESSIONS[name] * 60 > end:
            left.append(_spelled(name))
            continue
        print(f"==> {_spelled(name)}: {_summary(name)}", flush=True)
        start = time.monotonic()
        try:
            said = importlib.import_module(f".{name}", __package__).run(Stage(directory / name))
        except SessionError as error:
            failed = True
            said = f"FAILED: {str(error).splitlines()[0]}"
            print(error)
        lines.append(f"{_spelled(name):<16}{time.monotonic() - start:6.0f} s   {said}")
        print(lines[-1], flush=True)
    print("", *lines, sep="\n")
    if left:
        print(f"not run for want of time: {', '.join(left)}")
    if failed:
        print(f"The outputs of all sessions are in {directory}.")
        return 1
    shutil.rmtree(directory)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("machines", description="Test on other kernels and machines.")
    parser.add_argument(
        "--only",
        type=lambda name: name.replace("-", "_"),
        choices=SESSIONS,
        metavar="NAME",
        help=f"one of: {', '.join(map(_spelled, SESSIONS))}",
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin at the Nth")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="run only what fits in this time"
    )
    parser.add_argument("--list", action="store_true", help="show what each session runs")
    return parser.parse_args()


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _summary(name: str) -> str:
    return (importlib.import_module(f".{name}", __package__).__doc__ or "").splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
