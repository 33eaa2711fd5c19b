"""Boots guests side by side, as many at a time as `capacity` allows, and shows the progress."""

from __future__ import annotations

import os
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from pytest_bpflink.matrix.guests import capacity
from pytest_bpflink.vm.machines.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_bpflink.matrix.guests.guests import Guest
    from pytest_bpflink.system.progress import Progress


def side_by_side(
    guests: Sequence[Guest], progress: Progress, *, meanwhile: Callable[[], None]
) -> None:
    """Boot guests, call MEANWHILE, and return when each guest is up or a stand-in.

    Raises MachineError if none of the guests can be started.
    """
    began = time.monotonic()
    at_once = capacity.boots_at_once()
    if len(guests) > at_once:
        progress.line(
            f"booting {at_once} of {len(guests)} guests at a time, since this machine has"
            f" {os.cpu_count()} cores"
        )
    waiting = deque(guests)
    booting: dict[Future[None], Guest] = {}
    unstarted: list[MachineError] = []
    prepared = False
    with ThreadPoolExecutor(at_once, thread_name_prefix="boot") as threads:
        try:
            while waiting or booting:
                begun = []
                while waiting and len(booting) < at_once:
                    guest = waiting.popleft()
                    # In this thread, since QEMU dies with the thread that starts it.
                    try:
                        guest.boot()
                    except MachineError as error:
                        unstarted.append(MachineError(f"{guest.kernel.spec}: {error}"))
                        guest.give_up(f"--kernel {unstarted[-1]}")
                        continue
                    booting[threads.submit(guest.wait_ready)] = guest
                    begun.append(guest.name)
                if len(unstarted) == len(guests):
                    raise unstarted[0]
                if not prepared:
                    meanwhile()
                    prepared = True
                if begun:
                    progress(f"booting {', '.join(begun)}")
                if not booting:
                    continue
                for done in wait(booting, return_when=FIRST_COMPLETED).done:
                    done.result()
                    guest = booting.pop(done)
                    if guest.stand_in:
                        progress.line(f"{guest.name} did not boot")
        except BaseException:
            # The pool's end would wait until they are up.
            for guest in booting.values():
                guest.end()
            raise
    progress.line(f"guests are up after {time.monotonic() - began:.1f} s")
    progress.done()
