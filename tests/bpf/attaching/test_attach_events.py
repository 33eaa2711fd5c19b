"""Attaching to many events at once: errors that are found before the kernel is called."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, Object
from pytest_bpflink.bpf.attaching import attach_events
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

_EVENTS = ROOT / "selftests/conformance/progs/conformance_events.bpf.c"

_FUNCTIONS = ["security_task_getpgid", "security_task_getsid"]
_PLACES: dict[str, Any] = {"offsets": [16, 32, 48]}


@pytest.mark.parametrize(
    ("attach", "target", "options", "said"),
    [
        (attach_events.to_kprobe_multi, _FUNCTIONS, {}, "1 cookies for 2"),
        (attach_events.to_kprobe_multi, "security_*", {}, "1 cookies for 0"),
        (attach_events.to_uprobe_multi, Path("/lib/some.so"), _PLACES, "1 cookies for 3"),
        (attach_events.to_uprobe_multi, Path("/lib/some.so"), {}, "1 cookies for 0"),
    ],
)
def test_number_of_cookies_is_not_that_of_the_places(
    attach: Callable[..., Any], target: Any, options: dict[str, Any], said: str
) -> None:
    """With fewer cookies than places, the kernel would read memory behind the cookies."""
    with Object.open(_EVENTS) as opened:
        program = next(iter(opened.programs.values()))
        doing = f"attach {program.name} on {target}: EINVAL"
        with pytest.raises(BpfError, match=f"^{re.escape(doing)}.*{said}: there must") as refused:
            attach(program, target, cookies=[1], **options)
    assert refused.value.errno == errno.EINVAL
