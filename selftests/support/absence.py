"""What a kernel may lack: a test that can't make it skips or fails as with `bpf_requires`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pytest_bpflink import BpfError
from pytest_bpflink.session import requirements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

_Made = TypeVar("_Made")

VETH = ("CONFIG_VETH",)
"""The options without which a kernel may have no veth devices."""
DUMMY = ("CONFIG_DUMMY",)
"""The options without which a kernel may have no dummy devices."""
MACVLAN = ("CONFIG_DUMMY", "CONFIG_MACVLAN")
"""The options without which a kernel may have no macvlan devices on dummy devices."""


def made_or_absent(
    config: pytest.Config,
    feature: str,
    make: Callable[[], _Made],
    *,
    since: str = "",
    options: Sequence[str] = (),
) -> _Made:
    """Make something of a feature; where that fails, skip or fail as `requirements` decides."""
    try:
        return make()
    except BpfError as error:
        absence = error
    requirements.absent(config, feature, absence, since=since, options=options)
    raise absence  # not reached: the test was skipped or has failed
