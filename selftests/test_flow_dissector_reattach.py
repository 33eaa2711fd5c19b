"""The kernel's `flow_dissector_reattach`: one flow dissector per namespace, however attached.

Ported from tools/testing/selftests/bpf/prog_tests/flow_dissector_reattach.c (Linux 5.8), with the
names of its subtests. Beyond upstream, tests assert each refusal's errno, that the refused program
does not run, and that a dissector in the initial namespace and dissectors in others exclude each
other (5.5, a11c397c43d5). Upstream's "link create, link create" checks the wrong variable.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import AttachType, BpfError, NetNs, NetnsLinkInfo, eventually
from pytest_bpflink.selftests.conformance.checks import update_wrongly
from pytest_bpflink.selftests.conformance.network_stages import Dissected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Link, Object, Program

# The target may be the initial namespace, which is the whole machine's.
pytestmark = [pytest.mark.guest_only, pytest.mark.xdist_group("flow_dissector")]

_DISSECTOR = AttachType.FLOW_DISSECTOR
_FIRST, _SECOND, _NONE = (True, False), (False, True), (False, False)


class _Stage(Dissected):
    """The stage in the namespace that `target` gives."""

    @property
    def netns(self) -> NetNs:
        """The initial one, or the test's own."""
        netns: NetNs = self.request.getfixturevalue("target")
        return netns


@pytest.fixture(params=["init", "new"])
def target(request: pytest.FixtureRequest) -> Iterator[NetNs]:
    """The namespace that this process has been in from the start, or a fresh one."""
    with NetNs.current() if request.param == "init" else NetNs.create() as netns:
        yield netns


@pytest.fixture
def stage(target: NetNs, request: pytest.FixtureRequest, bpf_link: object) -> _Stage:
    assert target
    assert bpf_link
    return _Stage(request, "on_flow_dissector")


@pytest.fixture
def first(stage: _Stage) -> Program:
    return stage.object.program("on_flow_dissector")


@pytest.fixture
def second(stage: _Stage) -> Program:
    return stage.object.program("on_flow_dissector_alt")


@pytest.fixture
def attached(target: NetNs, first: Program) -> Iterator[Program]:
    """The first program, attached without a link."""
    target.attach(first)
    yield first
    if first.id in target.attached(_DISSECTOR):
        target.detach(first)


@pytest.fixture
def link(stage: _Stage, first: Program) -> Link:
    """The first program, attached by a link."""
    return stage.attach(first)


def test_prog_attach_prog_attach(
    attached: Program, second: Program, target: NetNs, stage: _Stage
) -> None:
    """Without links a program replaces another; to attach the present program is EINVAL."""
    assert stage.ran() == _FIRST
    target.attach(second)
    assert stage.ran() == _SECOND
    assert target.attached(_DISSECTOR) == (second.id,)

    with pytest.raises(BpfError) as refused:
        target.attach(second)
    assert refused.value.errno == errno.EINVAL

    with pytest.raises(BpfError) as refused:
        target.detach(attached)
    assert refused.value.errno == errno.ENOENT
    target.detach(second)
    assert stage.ran() == _NONE
    assert target.attached(_DISSECTOR) == ()


def test_link_create_link_create(
    link: Link, first: Program, second: Program, target: NetNs, stage: _Stage
) -> None:
    """A second link is E2BIG, to the same program and to another."""
    for program in (first, second):
        with pytest.raises(BpfError) as refused:
            stage.attach(program)
        assert refused.value.errno == errno.E2BIG
    assert stage.ran() == _FIRST
    assert target.attached(_DISSECTOR) == (first.id,)
    assert link.info.prog_id == first.id


def test_prog_attach_link_create(
    attached: Program, second: Program, target: NetNs, stage: _Stage
) -> None:
    """A link beside a program attached without one is EEXIST."""
    for program in (attached, second):
        with pytest.raises(BpfError) as refused:
            stage.attach(program)
        assert refused.value.errno == errno.EEXIST
    assert stage.ran() == _FIRST
    assert target.attached(_DISSECTOR) == (attached.id,)


def test_link_create_prog_attach(
    link: Link, first: Program, second: Program, target: NetNs, stage: _Stage
) -> None:
    """To attach without a link beside a link is EEXIST; to detach the link's program so, EINVAL."""
    for program in (first, second):
        with pytest.raises(BpfError) as refused:
            target.attach(program)
        assert refused.value.errno == errno.EEXIST
    with pytest.raises(BpfError) as refused:
        target.detach(first)
    assert refused.value.errno == errno.EINVAL
    assert stage.ran() == _FIRST
    assert link.info.prog_id == first.id


def test_link_update_no_old_prog(link: Link, second: Program, stage: _Stage) -> None:
    """An update that does not name the present program replaces it."""
    link.update(second)
    assert stage.ran() == _SECOND
    assert link.info.prog_id == second.id


def test_link_update_same_prog(link: Link, first: Program, stage: _Stage) -> None:
    """An update to the present program does nothing, and succeeds."""
    link.update(first)
    assert stage.ran() == _FIRST
    assert link.info.prog_id == first.id


def test_link_update_replace_old_prog(
    link: Link, first: Program, second: Program, stage: _Stage
) -> None:
    """An update that names the present program replaces it."""
    link.update(second, old=first)
    assert stage.ran() == _SECOND
    assert link.info.prog_id == second.id


@pytest.mark.parametrize("naming", ["first", "second"])
def test_link_update_same_prog_replace(
    link: Link, first: Program, second: Program, stage: _Stage, naming: str
) -> None:
    """An update to the present program succeeds if its `old` is that program; otherwise EPERM."""
    if naming == "first":
        link.update(first, old=first)
    else:
        with pytest.raises(BpfError) as refused:
            link.update(first, old=second)
        assert refused.value.errno == errno.EPERM
    assert stage.ran() == _FIRST


_REPLACE = 1 << 2


@pytest.mark.parametrize(
    ("flags", "old", "expected"),
    [
        pytest.param(0xFF, None, errno.EINVAL, id="unknown_flags"),
        pytest.param(0, "first", errno.EINVAL, id="old_without_replace"),
        pytest.param(_REPLACE, None, errno.EBADF, id="replace_without_old"),
        pytest.param(_REPLACE, "second", errno.EPERM, id="replace_wrong_old"),
    ],
)
def test_link_update_invalid_opts(
    link: Link, stage: _Stage, flags: int, old: str | None, expected: int
) -> None:
    """Flags and the old program must fit each other."""
    no_program = 10**6 if flags == _REPLACE else 0
    fds = {"first": stage.first.fd, "second": stage.second.fd, None: no_program}
    with pytest.raises(BpfError) as refused:
        update_wrongly(link, stage.second.fd, flags=flags, old=fds[old])
    assert refused.value.errno == expected
    assert stage.ran() == _FIRST


def test_link_update_invalid_prog(
    link: Link, stage: _Stage, bpf_object: Callable[..., Object]
) -> None:
    """An update to no program is EBADF, to one of another type EINVAL."""
    other = bpf_object("progs/cgroup_egress.bpf.c").program("egress")
    for fd, expected in ((10**6, errno.EBADF), (other.fd, errno.EINVAL)):
        with pytest.raises(BpfError) as refused:
            update_wrongly(link, fd)
        assert refused.value.errno == expected
    assert stage.ran() == _FIRST


@pytest.mark.parametrize("target", ["new"], indirect=True)
def test_link_update_netns_gone(link: Link, second: Program, target: NetNs) -> None:
    """Without its namespace a link can't be updated: ENOLINK."""
    target.close()
    eventually(lambda: _netns_ino(link) == 0, what="the link loses its namespace")
    with pytest.raises(BpfError) as refused:
        link.update(second)
    assert refused.value.errno == errno.ENOLINK


def test_link_get_info(link: Link, first: Program, second: Program, target: NetNs) -> None:
    """The link's info names the program and the namespace, also after an update."""
    assert link.info == NetnsLinkInfo(link.id, first.id, target.ino, _DISSECTOR)
    link.update(second)
    assert link.info == NetnsLinkInfo(link.id, second.id, target.ino, _DISSECTOR)
    link.detach()
    assert link.info == NetnsLinkInfo(link.id, second.id, 0, _DISSECTOR)


def test_initial_excludes_others(link: Link, second: Program, target: NetNs) -> None:
    """A dissector in the initial namespace is for all: one elsewhere is EEXIST, and vice versa."""
    with NetNs.current() as initial, NetNs.create() as fresh:
        is_initial = target.ino == initial.ino
        for attach in (lambda netns: netns.attach(second), second.attach):
            with pytest.raises(BpfError) as refused:
                attach(fresh if is_initial else initial)
            assert refused.value.errno == errno.EEXIST
        link.detach()
        second.attach(fresh if is_initial else initial).destroy()


def _netns_ino(link: Link) -> int:
    info = link.info
    assert isinstance(info, NetnsLinkInfo)
    return info.netns_ino
