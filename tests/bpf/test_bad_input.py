"""Mistakes that users make, each with its errno and its message."""

from __future__ import annotations

import errno
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import (
    AttachType,
    BpfError,
    Cgroup,
    CompileError,
    Link,
    NotSupported,
    Object,
    UnknownName,
    VerifierError,
    eventually,
    link_ids,
)
from pytest_bpflink.binding import libbpf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink import BpfFs, NetNs, Program

EGRESS = "../../selftests/progs/cgroup_egress.bpf.c"


@pytest.fixture
def counters(bpf_object: Callable[..., Object]) -> Object:
    return bpf_object(EGRESS)


@pytest.fixture
def egress(counters: Object) -> Program:
    return counters.program("egress")


@pytest.fixture
def attached(egress: Program, cgroup: Cgroup, bpf_link: Callable[..., Link]) -> Link:
    return bpf_link(egress, cgroup)


@pytest.fixture(params=["attach", "from_fd", "by_id"])
def link(request: pytest.FixtureRequest, attached: Link) -> Iterator[Link]:
    """A link with libbpf's `bpf_link *`, or with a bare descriptor: errors are the same."""
    if request.param == "attach":
        yield attached
        return
    made = Link.from_fd(attached.fd) if request.param == "from_fd" else Link.by_id(attached.id)
    with made:
        yield made


def raises(number: int, *parts: str) -> pytest.RaisesExc[BpfError]:
    """Expect a BpfError with this errno, and with these parts of its message in this order."""
    sentence = ".*".join(re.escape(part) for part in parts)
    return pytest.raises(BpfError, match=sentence, check=lambda error: error.errno == number)


# Objects.


def test_missing_file(bpf_object: Callable[..., Object], tmp_path: Path) -> None:
    with raises(errno.ENOENT, "open BPF object", "no.bpf.o: ENOENT"):
        bpf_object(tmp_path / "no.bpf.o")


def test_missing_source(bpf_object: Callable[..., Object], tmp_path: Path) -> None:
    with raises(errno.ENOENT, "compile", "no.bpf.c: ENOENT"):
        bpf_object(tmp_path / "no.bpf.c")


def test_directory(bpf_object: Callable[..., Object], tmp_path: Path) -> None:
    with raises(errno.EISDIR, "open BPF object", "EISDIR"):
        bpf_object(tmp_path)


def test_source_that_does_not_compile(bpf_object: Callable[..., Object], tmp_path: Path) -> None:
    source = tmp_path / "broken.bpf.c"
    source.write_text("int broken(void) { return nothing; }\n")
    with raises(errno.EINVAL, "compile", "broken.bpf.c: EINVAL", "clang says:") as raised:
        bpf_object(source)
    assert isinstance(raised.value, CompileError)
    assert "use of undeclared identifier 'nothing'" in raised.value.log
    assert "broken.bpf.c:1:" in str(raised.value)


def test_no_elf(bpf_object: Callable[..., Object], tmp_path: Path) -> None:
    text = tmp_path / "text.bpf.o"
    text.write_text("no ELF")
    with raises(errno.EINVAL, "open BPF object", "text.bpf.o: EINVAL", "not an ELF file"):
        bpf_object(text)


def test_elf_cut_off(bpf_object: Callable[..., Object], tmp_path: Path) -> None:
    cut = tmp_path / "cut.bpf.o"
    cut.write_bytes(b"\x7fELF" + bytes(60))
    with pytest.raises(BpfError, match=r"open BPF object .*cut.bpf.o: LIBBPF_ERRNO__") as raised:
        bpf_object(cut)
    assert "cut.bpf.o" in raised.value.log


def test_elf_without_bpf(bpf_object: Callable[..., Object]) -> None:
    with raises(4001, "open BPF object", "LIBBPF_ERRNO__FORMAT") as raised:
        bpf_object(Path(shutil.which("true") or "/bin/true"))
    assert "is not a valid eBPF object file" in raised.value.log


def test_refused_by_the_verifier(bpf_object: Callable[..., Object]) -> None:
    with pytest.raises(VerifierError) as raised:
        bpf_object("progs/refused.bpf.c")
    error = raised.value
    assert error.errno == errno.EACCES
    assert "invalid mem access 'map_value_or_null'" in error.verifier_log
    # The message ends with the verifier's last lines; the log has all of them.
    assert error.program == "unchecked"
    first, omitted, *lines = str(error).splitlines()
    assert re.fullmatch(
        r"load BPF object .*/refused.bpf.c: EACCES \(Permission denied\);"
        " the verifier says of program unchecked:",
        first,
    )
    assert omitted == "  ..."
    assert [line.strip() for line in lines] == [
        line.strip() for line in error.verifier_log.splitlines()[-12:]
    ]
    assert "  R0 invalid mem access 'map_value_or_null'" in lines
    assert "failed to load object" in error.log


def test_unknown_program(counters: Object) -> None:
    with raises(
        errno.ENOENT, "find program 'nope' in", "; there are: egress, egress_alt, sock_create"
    ):
        counters.program("nope")


def test_unknown_map(counters: Object) -> None:
    with raises(errno.ENOENT, "find map 'nope' in", "; there are: ", ".bss"):
        counters.map("nope")


def test_unknown_global_variable(counters: Object) -> None:
    with raises(
        errno.ENOENT, "find global variable 'nope' in .bss of", "; there are: alt_calls, calls"
    ):
        counters.bss["nope"] = 1
    with raises(errno.ENOENT, "it has no global variable at all"):
        _ = counters.data["nope"]
    assert counters.bss.get("nope") is None


def test_use_of_a_closed_object(counters: Object, egress: Program, cgroup: Cgroup) -> None:
    bss = counters.bss
    counters.close()
    counters.close()
    with raises(errno.EBADF, "use BPF object", "it was closed"):
        egress.attach(cgroup)
    with raises(errno.EBADF, "use .bss of", "the object was closed"):
        _ = bss["calls"]
    with raises(errno.EBADF, "use BPF object", "it was closed"):
        counters.program("egress")


# Attaching.


def test_cgroup_program_without_cgroup(egress: Program) -> None:
    with raises(
        errno.EINVAL,
        "attach egress (CGROUP_SKB, cgroup_skb/egress) to None: EINVAL",
        "a program of this type attaches to a Cgroup",
    ):
        egress.attach()


def test_cgroup_program_to_a_link(egress: Program, attached: Link) -> None:
    with raises(errno.EINVAL, "attach egress", f"to <Link {attached.id}", "to a Cgroup"):
        egress.attach(attached)


def test_tracepoint_program_to_a_cgroup(bpf_object: Callable[..., Object], cgroup: Cgroup) -> None:
    program = bpf_object("progs/other_targets.bpf.c").program("on_raw_tracepoint")
    with raises(
        errno.EINVAL,
        f"attach on_raw_tracepoint (RAW_TRACEPOINT, raw_tp/sys_enter) to <Cgroup {cgroup.path}>",
        "attaches to a tracepoint's name, or what its SEC() names",
    ):
        program.attach(cgroup)


def test_tc_program_says_what_to_write(
    bpf_object: Callable[..., Object], bpf_link: Callable[..., Link], netns: NetNs
) -> None:
    program = bpf_object("progs/other_targets.bpf.c").program("classify")
    for target in (None, netns.lo):
        with pytest.raises(BpfError) as raised:
            bpf_link(program, target)
        assert raised.value.errno == errno.EINVAL
        assert str(raised.value) == (
            "attach classify (SCHED_CLS, tc) by a BPF link: EINVAL (Invalid argument); write"
            ' SEC("tcx/ingress") or SEC("tcx/egress"), and attach it to a device;'
            " Device.tc_attach() attaches without a link, as before tcx"
        )


@pytest.mark.parametrize("make", [repr, lambda counters: counters])
def test_bpf_link_of_an_object_or_a_name(
    bpf_link: Callable[..., Link],
    counters: Object,
    cgroup: Cgroup,
    make: Callable[[Object], object],
) -> None:
    given = make(counters)
    with pytest.raises(TypeError) as raised:
        bpf_link(given, cgroup)
    assert str(raised.value) == (
        f"bpf_link() attaches a Program, or a Map of struct_ops, and {given!r} is neither:"
        ' write bpf_link(object.program("NAME"))'
    )


def test_unloaded_program(cgroup: Cgroup, request: pytest.FixtureRequest) -> None:
    with Object.open(request.path.parent / EGRESS) as opened:
        with pytest.raises(BpfError, match=f"attach egress to {cgroup.path}: E") as raised:
            opened.program("egress").attach(cgroup)
        assert raised.value.errno == errno.EINVAL
        assert "can't attach BPF program" in raised.value.log or "before loaded" in raised.value.log


def test_removed_cgroup(egress: Program, cgroup: Cgroup) -> None:
    gone = cgroup.create("gone")
    gone.remove()
    with raises(errno.ENOENT, f"open cgroup {gone.path}: ENOENT", "the cgroup is gone"):
        egress.attach(gone)
    with raises(errno.ENOENT, f"open cgroup {gone.path}: ENOENT", "the cgroup is gone"):
        gone.attached(AttachType.CGROUP_INET_EGRESS)
    with raises(errno.ENOENT, "the cgroup is gone"), gone.entered():
        pytest.fail("entered a cgroup that is gone")


def test_cgroup_whose_directory_was_removed(egress: Program, cgroup: Cgroup) -> None:
    gone = cgroup.create("gone")
    gone.fileno()
    gone.path.rmdir()
    with pytest.raises(BpfError, match=f"attach egress to {gone.path}: E") as raised:
        egress.attach(gone)
    assert raised.value.errno in {errno.ENOENT, errno.ENODEV}


def test_symbol_that_libbpf_lacks(egress: Program, cgroup: Cgroup) -> None:
    """A function of a later libbpf is refused by name when it is used, not before."""
    if libbpf.has("bpf_program__attach_cgroup_opts"):
        egress.attach(cgroup, flags=0, expected_revision=0).destroy()
        return
    with pytest.raises(NotSupported) as raised:
        egress.attach(cgroup, expected_revision=1)
    assert raised.value.errno == errno.EOPNOTSUPP
    assert str(raised.value) == (
        "call bpf_program__attach_cgroup_opts: EOPNOTSUPP (Operation not supported);"
        f" needs libbpf 1.6 or later, this is libbpf {libbpf.version()}"
    )


# Pinning and opening.


def test_pin_outside_a_bpffs(link: Link, tmp_path: Path) -> None:
    with raises(errno.EINVAL, f"pin link {link.id}", "not in a BPF FS", "bpffs fixture"):
        link.pin(tmp_path / "deep" / "link")
    assert list(tmp_path.iterdir()) == []
    assert link.pin_path is None


def test_pin_name_with_a_dot(link: Link, bpffs: BpfFs) -> None:
    with raises(errno.EPERM, f"at {bpffs / 'my.link'}: EPERM", "refuses names with a dot"):
        link.pin(bpffs / "my.link")
    assert link.pin_path is None


def test_pin_over_an_existing_path(link: Link, bpffs: BpfFs) -> None:
    with Link.by_id(link.id) as other:
        other.pin(bpffs / "link")
        with raises(errno.EEXIST, f"pin link {link.id}", f"at {bpffs / 'link'}: EEXIST"):
            link.pin(bpffs / "link")
    assert link.pin_path is None


def test_pin_below_missing_directories(link: Link, bpffs: BpfFs) -> None:
    """The last directory is made, as libbpf does, but none above it."""
    with raises(errno.ENOENT, f"pin link {link.id}", "ENOENT"):
        link.pin(bpffs / "no" / "such" / "link")
    link.pin(bpffs / "directory" / "link")
    assert (bpffs / "directory" / "link").exists()


def test_pin_twice(link: Link, bpffs: BpfFs) -> None:
    link.pin(bpffs / "link")
    with raises(errno.EBUSY, "pin link", f"it is pinned at {bpffs / 'link'} already"):
        link.pin(bpffs / "again")
    assert link.pin_path == bpffs / "link"
    assert list(bpffs.pins()) == [bpffs / "link"]


def test_unpin_what_is_not_pinned(link: Link) -> None:
    with raises(errno.EINVAL, f"unpin link {link.id}", "it is not pinned"):
        link.unpin()


def test_unpin_when_the_file_is_gone(link: Link, bpffs: BpfFs) -> None:
    link.pin(bpffs / "link")
    (bpffs / "link").unlink()
    with raises(errno.ENOENT, f"unpin link {link.id}", f"from {bpffs / 'link'}: ENOENT"):
        link.unpin()
    assert link.pin_path == bpffs / "link"


def test_open_nothing(bpffs: BpfFs) -> None:
    with raises(errno.ENOENT, f"open the link pinned at {bpffs / 'nothing'}: ENOENT"):
        Link.open(bpffs / "nothing")


def test_open_pinned_map(counters: Object, bpffs: BpfFs) -> None:
    next(iter(counters.maps.values())).pin(bpffs / "map")
    with raises(errno.EINVAL, f"open the link pinned at {bpffs / 'map'}", "a map, not a link"):
        Link.open(bpffs / "map")


def test_open_pinned_program(egress: Program, bpffs: BpfFs) -> None:
    egress.pin(bpffs / "program")
    with raises(errno.EINVAL, f"pinned at {bpffs / 'program'}", "a program, not a link"):
        Link.open(bpffs / "program")


def test_descriptor_of_something_else(egress: Program) -> None:
    with raises(errno.EINVAL, f"make a link of descriptor {egress.fd}", "a program, not a link"):
        Link.from_fd(egress.fd)
    with open("/dev/null", "rb") as null, raises(errno.EINVAL, "/dev/null, not a link"):
        Link.from_fd(null.fileno())
    with raises(errno.EBADF, "make a link of descriptor 1000000", "is not open"):
        Link.from_fd(1_000_000)


def test_id_zero() -> None:
    with raises(errno.ENOENT, "open link 0 by id: ENOENT"):
        Link.by_id(0)


def test_dead_id(attached: Link) -> None:
    attached.destroy()
    eventually(lambda: attached.id not in link_ids())
    with raises(errno.ENOENT, f"open link {attached.id} by id: ENOENT"):
        Link.by_id(attached.id)


# Using.


USES: dict[str, tuple[str, Callable[[Link, Program], object]]] = {
    "fd": ("use", lambda link, _: link.fd),
    "info": ("read the info of", lambda link, _: link.info),
    "pin_path": ("look at", lambda link, _: link.pin_path),
    "pin": ("pin", lambda link, _: link.pin("/sys/fs/bpf/never")),
    "unpin": ("unpin", lambda link, _: link.unpin()),
    "update": ("update", lambda link, program: link.update(program)),
    "exchange": ("update", lambda link, program: link.update(program, old=program)),
    "detach": ("detach", lambda link, _: link.detach()),
    "disconnect": ("disconnect", lambda link, _: link.disconnect()),
}


@pytest.mark.parametrize("use", USES)
def test_use_after_destroy(link: Link, egress: Program, use: str) -> None:
    verb, try_it = USES[use]
    link.destroy()
    with raises(errno.EBADF, f"{verb} link {link.id}", "it was destroyed"):
        try_it(link, egress)
    link.destroy()


def test_update_to_another_program_type(link: Link, counters: Object) -> None:
    with raises(errno.EINVAL, f"update link {link.id}", "to sock_create: EINVAL"):
        link.update(counters.program("sock_create"))


def test_link_that_can_not_be_updated_or_detached(
    bpf_object: Callable[..., Object], bpf_link: Callable[..., Link]
) -> None:
    program = bpf_object("progs/other_targets.bpf.c").program("on_raw_tracepoint")
    link = bpf_link(program)
    with raises(errno.EINVAL, f"update link {link.id} (on_raw_tracepoint)", "EINVAL"):
        link.update(program)
    with raises(errno.EOPNOTSUPP, f"detach link {link.id}", "EOPNOTSUPP"):
        link.detach()


def test_legacy_detach_of_nothing(egress: Program, cgroup: Cgroup) -> None:
    with raises(errno.ENOENT, f"detach egress from {cgroup.path}: ENOENT"):
        cgroup.detach(egress)


def test_unknown_option(egress: Program, cgroup: Cgroup, bpf_object: Callable[..., Object]) -> None:
    with raises(errno.EINVAL, "with bogus", "its options are: flags, relative, expected_revision"):
        egress.attach(cgroup, bogus=0)
    program = bpf_object("progs/other_targets.bpf.c").program("on_raw_tracepoint")
    with raises(errno.EINVAL, "attach on_raw_tracepoint", "with bogus", "it has no options"):
        program.attach(bogus=1)


def test_errors_survive_being_sent_to_another_process() -> None:
    errors = [
        BpfError(errno.EPERM, "try", hint="or not", log="said so"),
        VerifierError(errno.EACCES, "load", program="it", verifier_log="no"),
        NotSupported("fly", since="Linux 9", here="Linux 6"),
        UnknownName("map", "x", ["y"], "z"),
    ]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.errno == error.errno
        assert vars(again) == vars(error)


def test_interrupt_ends_a_call_of_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C that comes while libbpf logs is not lost in its callback."""

    def interrupt(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(libbpf, "_format", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Object.open("/bin/true")
    monkeypatch.undo()
    with pytest.raises(BpfError, match="LIBBPF_ERRNO__FORMAT"):
        Object.open("/bin/true")


def test_log_goes_nowhere_else(request: pytest.FixtureRequest) -> None:
    """Nothing is printed: libbpf's log is in the exception."""
    script = "from pytest_bpflink import Object; Object.open('/bin/true')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=request.config.rootpath,
    )
    assert "libbpf:" not in done.stderr
    assert "is not a valid eBPF object file" in done.stderr
