"""The link whose info is read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import Link, LinkType
from pytest_bpflink.binding.kernel_btf import vmlinux
from pytest_bpflink.selftests.conformance.info.asked import create
from pytest_bpflink.selftests.conformance.info.reading import fields
from pytest_bpflink.selftests.support.absence import made_or_absent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage


@pytest.fixture
def asked(link: Link, stage: Stage, row: Row, request: pytest.FixtureRequest) -> Iterator[Link]:
    """A link with something in each field of its info; the row's usual link is destroyed."""
    made_or_absent(request.config, "BTF", vmlinux, options=("CONFIG_DEBUG_INFO_BTF",))
    if row.link_type is LinkType.TRACING and "tracing.cookie" not in fields():
        yield link  # on 5.10 the program could not be attached again
        return
    link.destroy()
    fd = create(row, stage)
    with Link.from_fd(fd) as made:
        os.close(fd)
        stage.note(made.id)
        yield made
