"""Attaching to many events at once: what is refused before the kernel is asked."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfError, Object
from pytest_bpflink.bpf import attach_events
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
def test_cookies_of_another_number(
    attach: Callable[..., Any], target: Any, options: dict[str, Any], said: str
) -> None:
    """Fewer cookies than places would have the kernel read what is behind them."""
    with Object.open(_EVENTS) as opened:
        program = next(iter(opened.programs.values()))
        doing = f"attach {program.name} on {target}: EINVAL"
        with pytest.raises(BpfError, match=f"^{re.escape(doing)}.*{said}: there must") as refused:
            attach(program, target, cookies=[1], **options)
    assert refused.value.errno == errno.EINVAL
