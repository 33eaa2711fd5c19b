"""What holds for a link of any type: detaching it, and losing its target."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.selftests.conformance.checks import (
    FIRST,
    NONE,
    detachable,
    each,
    not_detachable,
    require_detached,
    update,
)
from pytest_bpflink.selftests.conformance.outcomes import OK

if TYPE_CHECKING:
    from pytest_bpflink import Link
    from pytest_bpflink.selftests.conformance.outcomes import Outcomes
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only


@detachable
def test_detach(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """Detached it stops at once, its handle answers, and once more does nothing."""
    assert stage.ran() == FIRST
    assert outcome("detach", link.detach) == OK
    assert stage.ran() == NONE
    require_detached(link, stage, row)
    assert outcome("detach twice", link.detach) == OK
    if row.update == OK:
        updated = outcome("update when detached", update, link, stage.second)
        assert updated == errno.ENOLINK


@each(lambda row: row.detach == OK and not row.brief)
def test_attach_after_detach(link: Link, stage: Stage) -> None:
    """Its program attaches anew while the detached link is held, and is not that link's."""
    link.detach()
    again = stage.attach()
    assert stage.ran() == FIRST
    link.destroy()
    assert stage.ran() == FIRST
    again.destroy()
    assert stage.ran() == NONE


@not_detachable
def test_detach_refused(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """A type that can't be detached says so, and goes on as before."""
    assert outcome("detach", link.detach) == row.detach
    assert stage.ran() == FIRST


@each(lambda row: row.target_ends)
@pytest.mark.usefixtures("own_target")
def test_target_ends(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """When its target goes away it is as if detached."""
    assert stage.ran() == FIRST
    stage.end_target()
    eventually(
        lambda: all(getattr(link.info, name) == value for name, value in row.detached.items()),
        what="the link loses its target",
    )
    require_detached(link, stage, row)
    updated = outcome("update when its target is gone", update, link, stage.second)
    assert updated == errno.ENOLINK
    assert outcome("detach when its target is gone", link.detach) == OK
