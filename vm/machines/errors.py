"""The errors of starting a machine and booting its guest."""

from __future__ import annotations


class MachineError(Exception):
    """No machine could be started; the message says what to do."""


class ComposeError(MachineError):
    """virtme-ng made no QEMU command; the message quotes it, or says what to install."""


class BootFailed(MachineError):  # noqa: N818 (reads as what happened)
    """The guest's Python did not start; the message ends with the end of the console.

    `timed_out`: the guest was killed at its deadline; otherwise it ended by itself.
    """

    def __init__(self, message: str, *, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out
