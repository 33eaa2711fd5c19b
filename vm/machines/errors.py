"""The errors of starting a machine and booting its guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class MachineError(Exception):
    """No machine could be started; the message says what to do."""


class DamagedImage(MachineError):  # noqa: N818 (reads as what happened)
    """A kernel's image does not unpack."""


class ComposeError(MachineError):
    """virtme-ng made no QEMU command; the message quotes it, or says what to install."""


class BootFailed(MachineError):  # noqa: N818 (reads as what happened)
    """The guest's Python did not start; the message ends with the end of the console.

    `timed_out`: the guest was killed at its deadline; otherwise it ended by itself. `lacking` are
    the options (CONFIG_*) that the kernel is built without, or whose module is missing, if that is
    the reason.
    """

    def __init__(self, message: str, *, timed_out: bool, lacking: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.lacking = tuple(lacking)
