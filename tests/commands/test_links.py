"""`bpflink links`: the kernel's links, with their targets in words and their holders."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_bpflink import BpfFs, Link, NetNs
from tests.support import ROOT
from tests.support.command import BPFLINK, bpflink, table_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import Cgroup, Program

EGRESS = ROOT / "selftests/progs/cgroup_egress.bpf.c"
SYS_ENTER = ROOT / "selftests/progs/sys_enter.bpf.c"


def row_of(link: Link) -> dict[str, Any]:
    """Return the command's row for a link."""
    done = bpflink("links", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = (row for row in json.loads(done.stdout) if row["id"] == link.id)
    found: dict[str, Any] = row
    return found


@pytest.fixture
def program(bpf_object: Callable[..., Any]) -> Program:
    found: Program = next(iter(bpf_object(EGRESS).programs.values()))
    return found


def test_link_in_json(
    bpf_link: Callable[..., Link], program: Program, cgroup: Cgroup, bpffs: BpfFs
) -> None:
    link = bpf_link(program, cgroup)

    assert row_of(link) == {
        "id": link.id,
        "type": "cgroup",
        "program": {"id": program.id, "name": program.name[:15], "type": "cgroup_skb"},
        "target": f"{cgroup.path} (cgroup_inet_egress)",
        "pins": [],
        "holders": [{"pid": os.getpid(), "fd": link.fd, "command": own_name()}],
        "info": {
            "id": link.id,
            "prog_id": program.id,
            "cgroup_id": cgroup.id,
            "attach_type": "cgroup_inet_egress",
            "type": "cgroup",
        },
    }
    # Pins in other sessions' mounts are not looked at: that would hold their links.
    link.pin(bpffs / "private")
    assert row_of(link)["pins"] == []


def test_links_as_a_table(bpf_link: Callable[..., Link], program: Program, cgroup: Cgroup) -> None:
    link = bpf_link(program, cgroup)
    done = bpflink("links")
    assert done.returncode == 0
    (row,) = (row for row in table_of(done.stdout) if row[0] == str(link.id))
    assert row[1:4] == ["cgroup", program.name[:15], f"({program.id})"]
    assert row[4:6] == [str(cgroup.path), "(cgroup_inet_egress)"]
    assert row[6:] == f"{own_name()} (pid {os.getpid()}, fd {link.fd})".split()


def test_pin_outside_of_sessions(
    bpf_link: Callable[..., Link], program: Program, cgroup: Cgroup, tmp_path: Path
) -> None:
    link = bpf_link(program, cgroup)
    with BpfFs.mount(tmp_path) as mount:
        link.pin(mount / "pinned")
        assert row_of(link)["pins"] == [str(mount / "pinned")]


def test_detached_link(bpf_link: Callable[..., Link], program: Program, cgroup: Cgroup) -> None:
    link = bpf_link(program, cgroup)
    link.detach()
    assert row_of(link)["target"] == "detached (cgroup_inet_egress)"


def test_tracepoint(bpf_object: Callable[..., Any], bpf_link: Callable[..., Link]) -> None:
    row = row_of(bpf_link(bpf_object(SYS_ENTER).program("pin_raw_tp")))
    assert (row["type"], row["target"]) == ("raw_tracepoint", "sys_enter")


def test_device_in_another_network_namespace(
    bpf_object: Callable[..., Any], bpf_link: Callable[..., Link], tmp_path: Path
) -> None:
    """The kernel reports an index alone, which devices in several namespaces can have."""
    source = tmp_path / "pass.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("xdp") int pass(void *ctx) { return XDP_PASS; }\n'
        'char LICENSE[] SEC("license") = "GPL";\n'
    )
    program = bpf_object(source).program("pass")
    # A namespace can be found only if a process is in it: each has one.
    with asleep_in_a_namespace(), asleep_in_a_namespace() as other:
        with NetNs(os.open(f"/proc/{other.pid}/ns/net", os.O_RDONLY)).entered() as netns:
            link = bpf_link(program, netns.lo)
        row = row_of(link)
        netns.close()
    assert (row["type"], row["target"]) == ("xdp", f"lo in netns of pid {other.pid}")


@contextlib.contextmanager
def asleep_in_a_namespace() -> Iterator[subprocess.Popen[bytes]]:
    command = ["unshare", "--net", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def many(program: Program, cgroup: Cgroup) -> Iterator[list[Link]]:
    """Attach a program 500 times, to cgroups that take 64 each."""
    with contextlib.ExitStack() as undo:
        cgroups = [cgroup.create(f"each-{number}") for number in range(10)]
        yield [undo.enter_context(program.attach(each)) for each in cgroups for _ in range(50)]


def test_holders_of_500_links(many: list[Link]) -> None:
    found = {row["id"]: row for row in json.loads(bpflink("links", "--json").stdout)}
    assert {link.id for link in many} <= found.keys()
    assert all(found[link.id]["holders"][0]["fd"] == link.fd for link in many)


def test_watching_prints_new_links_and_gone_ones(program: Program, cgroup: Cgroup) -> None:
    command = [BPFLINK, "links", "--watch", "--json", "--interval", "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        events = (json.loads(line) for line in watching.stdout)
        link = program.attach(cgroup)
        new = next(event for event in events if event["id"] == link.id)
        link.destroy()
        gone = next(event for event in events if event["event"] == "gone")
        watching.send_signal(signal.SIGINT)
    assert (new["event"], new["target"]) == ("new", f"{cgroup.path} (cgroup_inet_egress)")
    assert gone["id"] == link.id
    # Ctrl-C is how a user ends it, and no failure.
    assert watching.returncode == 0


def test_without_privileges_it_says_what_to_do() -> None:
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*([] if os.geteuid() else drop), BPFLINK, "links"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("bpflink: enumerate links: EPERM")
    assert done.stderr.endswith(f"; run it as root: sudo {BPFLINK} links\n")


def own_name() -> str:
    return Path("/proc/self/comm").read_text().strip()
