"""What can go wrong, as exceptions.

Every failed call of libbpf or of bpf(2) becomes a `BpfError`. Its message names the operation, the
object and the errno, and says what the reader can do about it, if something helps.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_Named = TypeVar("_Named")

# Python calls errno 95 ENOTSUP; the kernel's sources call it EOPNOTSUPP, and ENOTSUPP is 524.
_KERNEL_NAMES = {errno.EOPNOTSUPP: "EOPNOTSUPP", 524: "ENOTSUPP"}

# libbpf_errno of libbpf.h: the numbers that libbpf returns beside the kernel's.
_LIBBPF_ERRNOS = {
    4000: ("LIBELF", "Something wrong in libelf"),
    4001: ("FORMAT", "BPF object format invalid"),
    4002: ("KVERSION", "Incorrect or no 'version' section"),
    4003: ("ENDIAN", "Endian mismatch"),
    4004: ("INTERNAL", "Internal error in libbpf"),
    4005: ("RELOC", "Relocation failed"),
    4006: ("LOAD", "Load program failure for unknown reason"),
    4007: ("VERIFY", "Kernel verifier blocks program loading"),
    4008: ("PROG2BIG", "Program too big"),
    4009: ("KVER", "Incorrect kernel version"),
    4010: ("PROGTYPE", "Kernel doesn't support this program type"),
    4011: ("WRNGPID", "Wrong pid in netlink message"),
    4012: ("INVSEQ", "Invalid netlink sequence"),
    4013: ("NLPARSE", "Incorrect netlink message parsing"),
}

_LOG_LINES_SHOWN = 12


def errno_name(number: int) -> str:
    """Name an errno as the kernel or libbpf does: `EPERM`, `EOPNOTSUPP`, `LIBBPF_ERRNO__FORMAT`."""
    if number in _LIBBPF_ERRNOS:
        return f"LIBBPF_ERRNO__{_LIBBPF_ERRNOS[number][0]}"
    return _KERNEL_NAMES.get(number) or errno.errorcode.get(number, f"errno {number}")


def _describe(number: int) -> str:
    if number in _LIBBPF_ERRNOS:
        return _LIBBPF_ERRNOS[number][1]
    return "Operation is not supported" if number == 524 else os.strerror(number)


class BpfError(OSError):
    """A BPF operation failed.

    `errno` is the kernel's or libbpf's number, `operation` says what was tried on which object,
    `hint` what the reader can do about it, and `log` is libbpf's log of the operation.
    """

    def __init__(self, number: int, operation: str, *, hint: str = "", log: str = "") -> None:
        self.operation = operation
        self.hint = hint
        self.log = log.strip()
        super().__init__(number, f"{operation}: {errno_name(number)} ({_describe(number)})")

    def __str__(self) -> str:
        sentence = str(self.strerror)
        if self.hint:
            sentence += f"; {self.hint}"
        return "\n".join([sentence, *(f"  {line}" for line in self._shown_log())])

    def __reduce__(self) -> tuple[object, ...]:
        # Unpickling would call the class with OSError's two arguments.
        return _rebuild, (type(self), self.args, self.__dict__)

    def _shown_log(self) -> list[str]:
        return _end_of(self.log)


class WrongArgument(BpfError, TypeError):  # noqa: N818 - named for what happened
    """An argument is not of a kind that the operation takes; the errno is EINVAL."""

    def __init__(self, operation: str, *, hint: str) -> None:
        super().__init__(errno.EINVAL, operation, hint=hint)


class VerifierError(BpfError):
    """The kernel's verifier refused a program; `verifier_log` says why, in full.

    `program` is the program's name. A log that is too long for the message is a section of pytest's
    report.
    """

    def __init__(
        self, number: int, operation: str, *, program: str, verifier_log: str, log: str = ""
    ) -> None:
        self.program = program
        self.verifier_log = verifier_log.strip()
        hint = f"the verifier says of program {program}:"
        super().__init__(number, operation, hint=hint, log=log)

    @property
    def shows_whole_log(self) -> bool:
        """Whether the message has all lines of the verifier's log."""
        return self._shown_log() == self.verifier_log.splitlines()

    def _shown_log(self) -> list[str]:
        return _end_of(self.verifier_log)


class CompileError(BpfError):
    """clang refused a source, or is missing; `log` is its output."""

    def _shown_log(self) -> list[str]:
        return self.log.splitlines()


class NotSupported(BpfError):  # noqa: N818 - the field says "not supported"
    """The kernel or libbpf lacks a feature; `since` names the release that has it."""

    def __init__(self, feature: str, *, since: str, here: str, log: str = "") -> None:
        self.feature = feature
        self.since = since
        super().__init__(
            errno.EOPNOTSUPP, feature, hint=f"needs {since} or later, this is {here}", log=log
        )


class EventsLost(BpfError):  # noqa: N818 - named for what happened
    """Programs wrote events that a reader did not get; `lost` is `Events.lost`."""

    def __init__(self, name: str, lost: int, loss: str) -> None:
        self.lost = lost
        hint = (
            f"{loss}: read more often, make the buffer larger, or allow it with"
            " reading(allow_lost=True)"
        )
        super().__init__(errno.ENOBUFS, f"read the events of map {name}", hint=hint)


class PacketsLost(BpfError):  # noqa: N818 - named for what happened
    """A device had packets that a capture did not get; `lost` is `Capture.lost`."""

    def __init__(self, name: str, lost: int) -> None:
        self.lost = lost
        hint = (
            f"{lost} packets are lost: read more often, or allow it with capture(allow_lost=True)"
        )
        super().__init__(errno.ENOBUFS, f"capture packets on {name}", hint=hint)


class UnknownName(BpfError, KeyError):  # noqa: N818 - it is a KeyError to mappings
    """No program, map or global variable has this name; the message lists the names there are."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: object) -> None:
        names = ", ".join(sorted(known))
        hint = f"there are: {names}" if names else f"it has no {kind} at all"
        super().__init__(errno.ENOENT, f"find {kind} {name!r} in {where}", hint=hint)


def by_name(kind: str, name: str, known: Mapping[str, _Named], where: object) -> _Named:
    """Look a name up. Raises UnknownName, which lists the names there are."""
    try:
        return known[name]
    except KeyError:
        raise UnknownName(kind, name, known, where) from None


def is_bpf_error(raised: Any) -> bool:
    """Whether an exception, as pytest has it, is a `BpfError`.

    As `__tracebackhide__` of a function, it has the traceback of a failed test end at the caller.
    """
    return isinstance(raised.value, BpfError)


def _end_of(log: str) -> list[str]:
    lines = log.splitlines()
    return ["...", *lines[-_LOG_LINES_SHOWN:]] if len(lines) > _LOG_LINES_SHOWN else lines


def _rebuild(
    kind: type[BpfError], arguments: tuple[object, ...], state: dict[str, object]
) -> BpfError:
    error = kind.__new__(kind)
    OSError.__init__(error, *arguments)
    error.__dict__.update(state)
    return error


class UnknownFeature(ValueError):  # noqa: N818 - named for what happened
    """No probe has this name."""
