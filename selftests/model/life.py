"""A life as text: the steps that were done, as a plain test that can be pasted and run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pytest_bpflink.errors import errno_name

_HEAD = """\
import errno

from pytest_bpflink import Link, eventually
from pytest_bpflink.selftests.model.world import World, refused


def test_life(world: World) -> None:
    # Linux {release}
"""

_HANDLE = re.compile(r"([a-z]\d*) = ")


@dataclass
class Life:
    """The steps of a life and their errnos, and the check that failed."""

    release: str
    _lines: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """How many steps the life has."""
        return sum(not line.startswith("with ") for line in self._lines)

    def add(self, line: str, predicted: int) -> None:
        """Add a step that succeeds, or gives an errno."""
        if predicted:
            self._lines.append(f"with refused(errno.{errno_name(predicted)}):")
            line = f"    {line}"
        self._lines.append(line)

    def check(self, expression: str, expected: str, *, is_late: bool) -> None:
        """Add what is to be seen, at once or eventually."""
        seen = f"{expression} == {expected}"
        self._lines.append(f"eventually(lambda: {seen})" if is_late else f"assert {seen}")

    def __str__(self) -> str:
        handles = [name for name in map(_HANDLE.match, self._lines) if name]
        end = f"world.end({', '.join(name[1] for name in handles)})"
        return _HEAD.format(release=self.release) + "".join(
            f"    {line}\n" for line in [*self._lines, end]
        )
