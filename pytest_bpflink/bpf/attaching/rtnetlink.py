"""Requests about devices, over rtnetlink(7) and through pyroute2, which is imported only here."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pytest_bpflink.errors import BpfError

if TYPE_CHECKING:
    from pytest_bpflink.bpf.handles import NetnsHandle


def link(netns: NetnsHandle, doing: str, command: str, **about: Any) -> list[Any]:
    """Query or change a device."""
    return request(netns, doing, "link", command, **about)


def request(netns: NetnsHandle, doing: str, what: str, command: str, **about: Any) -> list[Any]:
    """Query or change links (devices), addresses or neighbours. Raises `BpfError`."""
    try:
        from pyroute2 import IPRoute  # type: ignore[import-untyped]
        from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(f"{doing}: needs pyroute2 (pip install 'pytest-bpflink[net]')") from error
    # The netlink socket holds the namespace, so each request opens and closes one.
    with netns.entered(), IPRoute() as route:
        try:
            return list(getattr(route, what)(command, **about))
        except NetlinkError as error:
            hint = "the kernel lacks this kind of device" if error.code == errno.EOPNOTSUPP else ""
            raise BpfError(error.code, f"{doing} in {netns}", hint=hint) from error
