"""The fdinfo of links of any type: each line says what the link's info says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import LinkType
from pytest_bpflink.binding import libbpf
from pytest_bpflink.binding.uapi import BpfProgInfo
from pytest_bpflink.selftests.conformance.checks import full_row
from pytest_bpflink.selftests.conformance.creating.call import attach_type_of
from pytest_bpflink.selftests.conformance.info.asked import (
    COOKIE,
    address,
    expected,
    form_of,
    vmlinux_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import KernelInfo, Link
    from pytest_bpflink.selftests.conformance.row import Row
    from pytest_bpflink.selftests.conformance.stages import Stage

pytestmark = pytest.mark.guest_only

# Lines that came after the link type, by the row's form: the first release seen with them.
_LINES_SINCE = {"perf_event": (6, 18), "kprobe_multi": (6, 18), "uprobe_multi": (6, 18)}
_TARGETS_SINCE = (6, 3)  # tracing's target_obj_id and target_btf_id
_RETURNS_SINCE = (6, 18)  # the type of links to returns

_DIRECTIONS = {46: "ingress", 47: "egress", 54: "primary", 55: "peer"}


# Links with cookies: without, reading a kprobe_multi link's fdinfo crashes 6.18.15.
@full_row
def test_fdinfo(asked: Link, stage: Stage, row: Row, bpf_kernel: KernelInfo) -> None:
    """The lines of the type are what was asked for, in the kernel's order."""
    with open(f"/proc/self/fdinfo/{asked.fd}", encoding="utf-8") as file:
        lines = file.read().splitlines()
    # A function is shown with its size: `security_task_getpgid+0x0/0xf0`.
    lines = [re.sub(r"\+0x\w+/0x\w+$", "", line) for line in lines if not _is_of_file(line)]
    wanted = {path.rpartition(".")[2]: value for path, value in expected(row, stage).items()}
    assert lines == [
        f"link_type:\t{_type(row, bpf_kernel)}",
        f"link_id:\t{asked.id}",
        *_of_program(stage),
        *_of_type(row, stage, wanted, bpf_kernel),
    ]


def _is_of_file(line: str) -> bool:
    return line.partition(":")[0] in {"pos", "flags", "mnt_id", "ino"}


def _type(row: Row, kernel: KernelInfo) -> str:
    name = "perf" if row.link_type is LinkType.PERF_EVENT else row.link_type.name.lower()
    if row.link_type in {LinkType.KPROBE_MULTI, LinkType.UPROBE_MULTI}:
        is_told = kernel.version >= _RETURNS_SINCE
        name = name.replace("probe", "retprobe") if is_told else name
    return name


def _of_program(stage: Any) -> list[str]:
    if not stage.prog_id:
        return []
    info = libbpf.read_info(stage.first.fd, BpfProgInfo, doing="ask for the program's tag")
    return [f"prog_tag:\t{bytes(info.tag).hex()}", f"prog_id:\t{stage.prog_id}"]


def _of_type(row: Row, stage: Any, wanted: dict[str, Any], kernel: KernelInfo) -> list[str]:
    form = form_of(row).partition(".")[0]
    if kernel.version < _LINES_SINCE.get(form, ()):
        return []
    return _OF_FORM.get(form, _plain)(row, stage, wanted, kernel)


def _plain(_row: Row, _stage: Any, wanted: dict[str, Any], _kernel: KernelInfo) -> list[str]:
    """Return a line for each field, in the order of the info's."""
    return [f"{name}:\t{getattr(value, 'value', value)}" for name, value in wanted.items()]


def _tracing(row: Row, stage: Any, wanted: dict[str, Any], kernel: KernelInfo) -> list[str]:
    lines = _plain(row, stage, wanted, kernel)
    return lines if kernel.version >= _TARGETS_SINCE else lines[:1]


def _device(row: Row, stage: Any, wanted: dict[str, Any], kernel: KernelInfo) -> list[str]:
    direction = _DIRECTIONS[wanted["attach_type"]]
    return [
        *_plain(row, stage, wanted, kernel)[:-1],
        f"attach_type:\t{wanted['attach_type']:d} ({direction})",
    ]


def _netfilter(_row: Row, _stage: Any, wanted: dict[str, Any], _kernel: KernelInfo) -> list[str]:
    return ["pf:\t{pf}\thooknum:\t{hooknum}\tprio:\t{priority}".format_map(wanted)]


def _iter(row: Row, stage: Any, wanted: dict[str, Any], kernel: KernelInfo) -> list[str]:
    lines = [f"target_name:\t{wanted['target_name'].value}"]
    if row.id == "iter_map_elem":
        lines.append(f"map_id:\t{wanted['map_id']}")
    elif row.id == "iter_cgroup":
        path = str(stage.target.path)
        lines += [f"cgroup_path:\t{path[path.rindex('/pytest-bpflink') :]}", "order: self_only"]
    elif row.id.startswith("iter_task") and kernel.version >= (6, 1):
        lines += (
            ["task_type:\tPID", f"pid:\t{wanted['pid']}"] if wanted["pid"] else ["task_type:\tALL"]
        )
    return lines


def _perf_event(row: Row, _stage: Any, wanted: dict[str, Any], _kernel: KernelInfo) -> list[str]:
    end = [
        f"event_type:\t{'event' if row.id == 'perf_event' else row.id}",
        f"cookie:\t{wanted['cookie']}",
    ]
    if row.id == "perf_event":
        return [f"type:\t{wanted['type']}", f"config:\t{wanted['config']:d}", *end]
    if row.id == "tracepoint":
        return [f"tp_name:\t{wanted['tp_name'].value}", *end]
    if "kprobe" in row.id or "kretprobe" in row.id:
        return [
            f"name:\t{wanted['func_name'].value}",
            f"offset:\t{wanted['offset']:#x}",
            f"missed:\t{wanted['missed']}",
            f"addr:\t{wanted['addr']:#x}",
            *end,
        ]
    return [
        f"name:\t{wanted['file_name'].value}",
        f"offset:\t{wanted['offset']:#x}",
        f"ref_ctr_offset:\t{wanted['ref_ctr_offset']:#x}",
        *end,
    ]


def _kprobe_multi(_row: Row, stage: Any, wanted: dict[str, Any], _kernel: KernelInfo) -> list[str]:
    cookies = wanted["cookies"].value
    names = sorted(stage.target, key=address)
    return [
        f"kprobe_cnt:\t{len(names)}",
        f"missed:\t{wanted['missed']}",
        "cookie\t func",
        *(f"{cookie}\t {name}" for cookie, name in zip(cookies, names, strict=True)),
    ]


def _uprobe_multi(_row: Row, _stage: Any, wanted: dict[str, Any], _kernel: KernelInfo) -> list[str]:
    places = [wanted[name].value for name in ("cookies", "offsets", "ref_ctr_offsets")]
    return [
        f"uprobe_cnt:\t{len(places[0])}",
        f"pid:\t{wanted['pid']}",
        f"path:\t{wanted['path'].value}",
        "cookie\t offset\t ref_ctr_offset",
        *(
            f"{cookie}\t {at:#x}\t {counter:#x}"
            for cookie, at, counter in zip(*places, strict=True)
        ),
    ]


def _tracing_multi(row: Row, stage: Any, _wanted: dict[str, Any], _kernel: KernelInfo) -> list[str]:
    # Shown since 7.2, which has no info of it.
    return [
        f"attach_type:\t{attach_type_of(row, stage):d}",
        f"cnt:\t{len(stage.target)}",
        "obj-id\t btf-id\t cookie\t func",
        *(
            f"{vmlinux_id()}\t {number}\t {COOKIE + index}\t {name}"
            for number, index, name in sorted(zip(stage.numbers, (0, 1), stage.target, strict=True))
        ),
    ]


_OF_FORM: dict[str, Callable[[Row, Any, dict[str, Any], KernelInfo], list[str]]] = {
    "tracing": _tracing,
    "tcx": _device,
    "netkit": _device,
    "netfilter": _netfilter,
    "iter": _iter,
    "perf_event": _perf_event,
    "kprobe_multi": _kprobe_multi,
    "uprobe_multi": _uprobe_multi,
    "tracing_multi": _tracing_multi,
}
