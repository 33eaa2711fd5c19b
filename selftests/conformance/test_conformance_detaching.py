"""Links of any type: detaching one, and the end of its target."""

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
    """A detached link's program stops at once, its info remains, a second detach does nothing."""
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
    """A program attaches anew while its detached link is held; that link's end changes nothing."""
    link.detach()
    again = stage.attach()
    assert stage.ran() == FIRST
    link.destroy()
    assert stage.ran() == FIRST
    again.destroy()
    assert stage.ran() == NONE


@not_detachable
def test_detach_refused(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """A link that can't be detached returns the row's errno, and its program runs on."""
    assert outcome("detach", link.detach) == row.detach
    assert stage.ran() == FIRST


@each(lambda row: row.target_ends)
@pytest.mark.usefixtures("own_target")
def test_target_ends(link: Link, stage: Stage, row: Row, outcome: Outcomes) -> None:
    """A link whose target goes away is as if it were detached."""
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
