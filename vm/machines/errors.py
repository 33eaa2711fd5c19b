"""What keeps a machine from being started, or its guest from coming up."""

from __future__ import annotations


class MachineError(Exception):
    """No machine could be started; the message says what to do."""


class ComposeError(MachineError):
    """virtme-ng made no QEMU command; the message is what it said, or how to install it."""


class BootFailed(MachineError):  # noqa: N818 (reads as what happened)
    """The kernel did not come up to the guest's Python; the message ends with its console.

    `timed_out` tells a guest that was given up from one that ended.
    """

    def __init__(self, message: str, *, timed_out: bool) -> None:
        super().__init__(message)
        self.timed_out = timed_out
