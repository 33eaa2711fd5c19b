"""Results of operations on links, written down for the page on link types.

A result becomes a property of the test's report, and so of the JUnit file that `page` reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec

from pytest_bpflink import BpfError
from pytest_bpflink.errors import errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

_Arguments = ParamSpec("_Arguments")

OK = 0
"""In place of an errno: the operation succeeds."""

PREFIX = "link-type:"
"""The prefix of the properties that the page is made from."""

WINDOW = "window: "
"""After `PREFIX`, the prefix of windows: how late a link ended, in milliseconds or in runs."""


class Outcomes:
    """Does the operations of one test on one row, and writes down their results."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        # The item's: the fixture record_property warns about JUnit's default family.
        self._properties = properties

    def __call__(
        self,
        operation: str,
        do: Callable[_Arguments, object],
        /,
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> int:
        """Do an operation, and return `OK` or the errno that it raised."""
        try:
            do(*arguments, **options)
        except BpfError as error:
            number = error.errno or OK
        else:
            number = OK
        self.write(operation, errno_name(number) if number else "OK")
        return number

    def write(self, name: str, value: object) -> None:
        """Write down a value that is no operation's result."""
        self._properties.append((f"{PREFIX}{name}", value))
