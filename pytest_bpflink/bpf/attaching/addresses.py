"""Addresses of devices, and pairs of devices that can talk without another packet on the wire."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from typing import TYPE_CHECKING

from pytest_bpflink.bpf.attaching.rtnetlink import link, request
from pytest_bpflink.errors import BpfError
from pytest_bpflink.system.netlink import attributes, dump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.bpf.handles import DeviceHandle

_NEW_ADDRESS, _GET_ADDRESS = 20, 22  # RTM_NEWADDR, RTM_GETADDR
_ADDRESS, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_IFADDRMSG = struct.Struct("=BBBBI")
_SCOPE_LINK = 253
_PERMANENT = 0x80  # NUD_PERMANENT
_IFF_NOARP = 0x80
_NO_LINK_LOCAL_ADDRESS = 1  # IN6_ADDR_GEN_MODE_NONE


def first(device: DeviceHandle, family: int) -> str:
    """Return the first address of a device that is not link-local.

    Raises `BpfError` with EADDRNOTAVAIL if there is none.
    """
    with device.netns.entered():
        found = next(_addresses(device.ifindex, family), None)
    if found is None:
        kind = "IPv4" if family == socket.AF_INET else "IPv6"
        hint = "veth(addresses=True) gives each end its own"
        raise BpfError(errno.EADDRNOTAVAIL, f"read the {kind} address of {device}", hint=hint)
    return found


def set_quiet(device: DeviceHandle) -> None:
    """Have the kernel send no packets of its own, before the device is brought up.

    It asks no neighbour for its MAC address, nor whether another has the device's own (so that
    IPv6 addresses are usable at once), and without link-local addresses it looks for no router.
    """
    doing = f"keep {device} quiet"
    about = {"index": device.ifindex, "flags": _IFF_NOARP, "change": _IFF_NOARP}
    link(device.netns, doing, "set", **about)
    ipv6 = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _NO_LINK_LOCAL_ADDRESS]]}
    with contextlib.suppress(BpfError):  # the kernel has no IPv6
        specific = {"attrs": [["AF_INET6", ipv6]]}
        link(device.netns, doing, "set", index=device.ifindex, IFLA_AF_SPEC=specific)


def give_pair(near: DeviceHandle, far: DeviceHandle, number: int) -> None:
    """Give two devices that are up their addresses, by which each knows the other."""
    # Ranges for benchmarks and for documentation, which nobody routes (RFC 2544, RFC 3849).
    _give(near, far, f"198.{18 + number // 256}.{number % 256}.", 24)
    try:
        _give(near, far, f"2001:db8:0:{number:x}::", 64)
    except BpfError as error:
        # The kernel has no IPv6, or it is disabled: `first()` says that there is no address.
        if error.errno not in {errno.EOPNOTSUPP, errno.EACCES}:
            raise


def _give(near: DeviceHandle, far: DeviceHandle, prefix: str, length: int) -> None:
    ends = (near, far, 1), (far, near, 2)
    for device, _, end in ends:
        about = {"index": device.ifindex, "address": f"{prefix}{end}", "prefixlen": length}
        request(device.netns, f"give {device} the address {prefix}{end}", "addr", "add", **about)
    for device, neighbour, end in ends:
        about = {
            "ifindex": neighbour.ifindex,
            "dst": f"{prefix}{end}",
            "lladdr": _mac_address(device),
            "state": _PERMANENT,
        }
        request(neighbour.netns, f"name the neighbour {device}", "neigh", "replace", **about)


def _mac_address(device: DeviceHandle) -> str:
    doing = f"read the MAC address of {device}"
    (answer,) = link(device.netns, doing, "get", index=device.ifindex)
    return str(answer.get_attr("IFLA_ADDRESS"))


def _addresses(ifindex: int, family: int) -> Iterator[str]:
    """Yield the addresses of a device in this thread's namespace, but no link-local ones."""
    asked = _IFADDRMSG.pack(family, 0, 0, 0, 0)
    for message in dump(socket.NETLINK_ROUTE, _GET_ADDRESS, asked, answers=_NEW_ADDRESS):
        its_family, _, _, scope, index = _IFADDRMSG.unpack_from(message)
        if (its_family, index) == (family, ifindex) and scope != _SCOPE_LINK:
            found = dict(attributes(message[_IFADDRMSG.size :]))
            yield socket.inet_ntop(family, found.get(_LOCAL) or found[_ADDRESS])
