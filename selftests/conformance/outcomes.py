"""What operations on links gave, written down for the page on link types.

Each goes to the test's report as a property, and from there to JUnit files; `link_types` reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ParamSpec

from pytest_bpflink import BpfError
from pytest_bpflink.errors import errno_name

if TYPE_CHECKING:
    from collections.abc import Callable

_Arguments = ParamSpec("_Arguments")

OK = 0
"""Where an errno is expected: none, it works."""

PREFIX = "link-type:"
"""What the names of properties start with that are meant for the page."""

WINDOW = "window: "
"""What the names of times go on with: how long the kernel took, in milliseconds."""


class Outcomes:
    """What came of the operations of one test on one row."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        # Those of the item: the fixture record_property warns of JUnit's default family.
        self._properties = properties

    def __call__(
        self,
        operation: str,
        do: Callable[_Arguments, object],
        /,
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> int:
        """Do something, and return `OK` or the errno that it gave."""
        try:
            do(*arguments, **options)
        except BpfError as error:
            number = error.errno or OK
        else:
            number = OK
        self.write(operation, errno_name(number) if number else "OK")
        return number

    def write(self, name: str, value: object) -> None:
        """Write down what was seen otherwise."""
        self._properties.append((f"{PREFIX}{name}", value))
