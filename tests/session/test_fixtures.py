"""The fixtures leave nothing behind, however a test ends, and hide no failure.

Each session under test is another process, and notes in a file the cgroups, mounts and links that
it makes. After its end these, their pins and the session's directory must be gone.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import Link, eventually, link_ids
from pytest_bpflink.introspection import pins
from pytest_bpflink.ledger import estate
from pytest_bpflink.system import estates
from tests.support import ROOT
from tests.support.nobody import NOBODY
from tests.support.processes import is_running

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_bpflink import BpfFs, Cgroup

OBJECT = ROOT / "selftests/progs/cgroup_egress.bpf.c"

PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")

# Begins every inner file: a fixture that uses each of the plugin's fixtures once, and notes it.
PREAMBLE = f"""
import os, signal, time
import pytest

@pytest.fixture
def everything(bpf_object, bpf_link, cgroup, bpffs):
    link = bpf_link(bpf_object({str(OBJECT)!r}).program("egress"), cgroup.create("nested"))
    link.pin(bpffs / "link")
    with open({{note!r}}, "a") as note:
        note.write(f"{{{{os.getpid()}}}} {{{{cgroup.path}}}} {{{{bpffs.path}}}} {{{{link.id}}}}\\n")
    return link
"""


READY = """
def test_it(everything):
    print("ready", os.getpid(), flush=True)
    time.sleep(600)
"""


class Session:
    """A pytest session in another process, and the notes that it writes."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        self.path = pytester.path
        self._note = pytester.path / "note"
        self._note.touch()
        # Other sessions on this machine sweep too, but not in this directory.
        self.run_directory = pytester.path / "run"
        self.root = self.run_directory / "pytest-bpflink"
        self._environment = os.environ | {"BPFLINK_RUN_DIRECTORY": str(self.run_directory)}

    def start(self, tests: str, *arguments: str) -> subprocess.Popen[str]:
        """Start pytest on a file of tests, which begins with the preamble."""
        self._pytester.makepyfile(PREAMBLE.format(note=str(self._note)) + tests)
        return subprocess.Popen(
            [*PYTEST, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.path,
            env=self._environment,
        )

    def collect(self) -> None:
        """Run a session that runs no test, and so only sweeps."""
        command = [*PYTEST, "--collect-only", "-q"]
        subprocess.run(
            command, stdout=subprocess.DEVNULL, check=True, cwd=self.path, env=self._environment
        )

    def run(self, tests: str, *arguments: str) -> str:
        """Run pytest to its end, and return its output."""
        output, _ = self.start(tests, *arguments).communicate(timeout=120)
        return output

    def made(self) -> list[tuple[int, Path, Path, int]]:
        """Return the pid, cgroup, mount and link that each test has noted."""
        lines = self._note.read_text().splitlines()
        return [
            (int(pid), Path(cgroup), Path(mount), int(link_id))
            for pid, cgroup, mount, link_id in map(str.split, lines)
        ]

    def left(self) -> list[object]:
        """Return all that was noted and still exists."""
        mounts, links = set(pins.mounts()), set(link_ids())
        left: list[object] = []
        for pid, cgroup, mount, link_id in self.made():
            left += [path for path in (cgroup, cgroup.parent, mount.parent) if path.exists()]
            left += [f"mount {mount}"] if mount in mounts else []
            left += [f"link {link_id}"] if link_id in links else []
            left += list(self.root.glob(f"{pid}-*"))
        return left

    def leaves_nothing(self) -> bool:
        """Wait until all that was noted is gone: the kernel may defer the end of unmounted pins."""
        eventually(lambda: not self.left(), what=f"all of {self.made()} is gone")
        return True


@pytest.fixture
def session(pytester: pytest.Pytester) -> Session:
    return Session(pytester)


@pytest.fixture
def outer_pin(bpffs: BpfFs) -> Path:
    """A path in a BPF FS that the inner session does not own."""
    return bpffs / "outer"


def test_two_hundred_in_parallel(session: Session) -> None:
    """Two hundred tests on four workers make two hundred of everything, and leave nothing."""
    output = session.run(
        """
@pytest.mark.parametrize("number", range(200))
def test_all(everything, number):
    assert everything.info.cgroup_id
        """,
        "-n4",
    )

    assert "200 passed" in output
    made = session.made()
    assert len(made) == 200
    for column in (1, 2, 3):
        assert len({row[column] for row in made}) == 200
    assert len({row[0] for row in made}) == 4
    assert session.leaves_nothing()


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        ("pass", "1 passed"),
        ("assert False, 'the reason'", "1 failed"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", "KeyboardInterrupt"),
        ("pytest.exit('enough')", "enough"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
    ids=["pass", "fail", "interrupt", "sigint", "exit", "systemexit"],
)
def test_nothing_is_left(session: Session, ending: str, outcome: str) -> None:
    output = session.run(f"def test_it(everything):\n    {ending}")
    assert outcome in output
    assert len(session.made()) == 1
    assert session.leaves_nothing()


def test_nothing_is_left_by_an_error_in_set_up(session: Session) -> None:
    output = session.run(
        """
@pytest.fixture
def broken(everything):
    raise RuntimeError("the reason")

def test_it(broken):
    pass
        """
    )
    assert "1 error" in output
    assert "the reason" in output
    assert session.leaves_nothing()


def test_teardown_error_hides_nothing(session: Session) -> None:
    """A test fails, and its cgroup is held: both are reported, and the next test runs."""
    output = session.run(
        f"""
import socket
from pytest_bpflink import Object

held = []

def test_it(everything, cgroup):
    held.append(Object.open({str(OBJECT)!r}).load().program("egress").attach(cgroup))
    with cgroup.entered():
        held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    assert False, "the test's own failure"

def test_after(everything):
    assert everything.info.cgroup_id
        """
    )
    assert "the test's own failure" in output
    assert "What holds them: a socket that was made inside and is still open" in output
    assert "1 failed, 1 passed, 1 error" in output
    assert session.leaves_nothing()


def test_killed_session_is_swept_by_the_next(session: Session, outer_pin: Path) -> None:
    """After SIGKILL the next session removes the remains of the dead one."""
    tests = f"""
import subprocess

def test_it(everything, cgroup, bpf_link, bpf_object):
    other = bpf_link(bpf_object({str(OBJECT)!r}).program("egress"), cgroup)
    other.pin({str(outer_pin)!r})
    child = subprocess.Popen(["sleep", "600"], pass_fds=[everything.fd])
    cgroup.add(child.pid)
    print("ready", child.pid, flush=True)
    time.sleep(600)
    """
    with _running(session, tests) as (process, child):
        living = session.made()
        process.kill()
        process.wait()
    assert len(living) == 1
    left = session.left()
    assert len(left) > 4, left  # cgroup, its parent, the mount, the session's directory, the link
    assert outer_pin.exists()
    assert is_running(child)

    session.collect()

    assert session.leaves_nothing()
    assert not outer_pin.exists()
    assert not is_running(child)


def test_living_session_is_left_alone(
    session: Session, outer_pin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep leaves a living session alone, and a pin that another put at the same path."""
    monkeypatch.setattr(estates, "ROOT", session.root)
    tests = f"""
def test_it(everything, bpf_link, bpf_object, cgroup):
    other = bpf_link(bpf_object({str(OBJECT)!r}).program("egress"), cgroup)
    other.pin({str(outer_pin)!r})
    print("ready", os.getpid(), flush=True)
    time.sleep(600)
    """
    with _running(session, tests) as (process, _):
        before = session.left()
        assert estate.sweep(pytest.fail) == []
        assert session.left() == before

        outer_pin.unlink()
        (_, _, _, link_id), *_ = session.made()
        with Link.by_id(link_id) as somebody_elses:
            somebody_elses.pin(outer_pin)
        process.kill()
        process.wait()
    assert len(estate.sweep(pytest.fail)) == 1
    assert outer_pin.exists()
    with Link.open(outer_pin) as kept:
        kept.unpin()
    assert session.leaves_nothing()


def test_sweep_that_fails_is_reported_and_tried_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that fails says so, goes on with the rest, and the next one tries again."""
    monkeypatch.setattr(estates, "ROOT", session.root)
    with _running(session, READY) as (process, _):
        process.kill()
        process.wait()
    (_, cgroup, mount, _), *_ = session.made()

    complaints: list[str] = []
    with monkeypatch.context() as broken:
        broken.setattr(estate, "_remove_cgroup", _refuse)
        assert estate.sweep(complaints.append) == []
    assert cgroup.exists()
    assert mount not in set(pins.mounts())
    (complaint,) = complaints
    assert complaint.startswith(f"{mount.parent}, left by a killed session, can't be removed: ")
    assert "busy" in complaint

    assert estate.sweep(pytest.fail) == [mount.parent.name]
    assert session.leaves_nothing()


def test_nothing_but_estates_is_swept(session: Session) -> None:
    """Other files in the run directory, and others in our directory there, stay as they are."""
    with _running(session, READY) as (process, _):
        process.kill()
        process.wait()
    precious = session.path / "precious"
    lock = precious / "123-0123abcd/owner"
    places = (session.run_directory, session.root)
    kept = [directory / name for directory in places for name in ("file", "a directory/file")]
    kept += [session.root / "123-89abcdef", session.root / "123-0123abcd/owner/file", lock]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    links = [directory / "link" for directory in places] + [session.root / "123-0123abce"]
    for link in links:
        link.symlink_to(lock.parent)

    session.collect()

    assert session.leaves_nothing()
    assert [path.read_text() for path in kept] == ["precious"] * len(kept)
    assert all(link.is_symlink() for link in links)


def make_it_another_s(root: Path) -> str:
    os.chown(root, NOBODY, -1)
    return f"{root} belongs to another user"


def let_another_enter(root: Path) -> str:
    root.chmod(0o770)
    return f"other users may enter {root}"


def let_another_replace_it(root: Path) -> str:
    root.parent.chmod(0o777)
    return f"other users may write to {root.parent}"


def put_a_link_in_its_place(root: Path) -> str:
    planted = root.rename(root.with_name("planted"))
    root.symlink_to(planted)
    return f"{root} is no directory"


def put_a_file_in_its_place(root: Path) -> str:
    root.rename(root.with_name("planted"))
    root.touch()
    return f"{root} is no directory"


@pytest.mark.parametrize(
    "plant",
    [
        make_it_another_s,
        let_another_enter,
        let_another_replace_it,
        put_a_link_in_its_place,
        put_a_file_in_its_place,
    ],
)
def test_nothing_of_a_directory_that_others_may_write_is_removed(
    session: Session, plant: Callable[[Path], str]
) -> None:
    """No session runs there: its tests of BPF are errors that say why, and others pass."""
    with _running(session, READY) as (process, _):
        process.kill()
        process.wait()
    left = session.left()
    reason = plant(session.root)

    tests = "def test_it(cgroup): pass\ndef test_other(): pass"
    output = session.run(tests, f"--ignore={session.run_directory}")

    assert "1 passed, 1 error" in output
    assert f"PermissionError: {reason}: BPFLINK_RUN_DIRECTORY names another directory" in output

    for planted in session.run_directory.glob("planted"):
        session.root.unlink()
        planted.rename(session.root)
    session.run_directory.chmod(0o755)
    session.root.chmod(0o700)
    os.chown(session.root, os.geteuid(), -1)
    assert session.left() == left
    session.collect()
    assert session.leaves_nothing()


def test_sweep_touches_no_cgroup_without_the_name_of_the_estate(
    session: Session, cgroup: Cgroup
) -> None:
    with _running(session, READY) as (process, _):
        process.kill()
        process.wait()
    (_, _, mount, _), *_ = session.made()
    (mount.parent / "cgroup").symlink_to(cgroup.path)
    with subprocess.Popen(["sleep", "600"]) as child:
        cgroup.add(child.pid)
        session.collect()
        assert session.leaves_nothing()
        assert child.poll() is None
        assert cgroup.procs == [child.pid]
        child.kill()


LEFT_INSIDE = """
import os, subprocess
from pytest_bpflink import Cgroup
from pytest_bpflink.ledger.estate import Estate

estate = Estate.found()
inner = Cgroup(estate.make_cgroup()).create("inner")
sleeping = subprocess.Popen(["sleep", "600"])
for pid in (sleeping.pid, os.getpid()):
    inner.add(pid)
estate.close()
print(inner.path.parent, sleeping.wait())
"""


def test_process_in_its_own_cgroup_is_moved_out(session: Session) -> None:
    """The estate's end kills all other processes in the cgroup."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_INSIDE],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"BPFLINK_RUN_DIRECTORY": str(session.run_directory)},
    )
    assert done.returncode == 0
    path, _, status = done.stdout.rpartition(" ")
    assert int(status) == -signal.SIGKILL
    assert not Path(path).exists()


def test_sweep_leaves_other_users_to_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where root has tested, another user's session starts all the same."""
    monkeypatch.setattr(estates, "ROOT", tmp_path / "run")
    ours = estate.Estate.found()
    child = os.fork()
    if not child:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os._exit(estate.sweep(pytest.fail) != [])
    assert os.waitpid(child, 0)[1] == 0
    ours.close()


def test_forked_child_is_not_the_owner(session: Session) -> None:
    """A child that ends by `sys.exit` removes nothing that its parent made."""
    output = session.run(
        """
import sys

def test_it(everything, cgroup, bpffs):
    child = os.fork()
    if not child:
        sys.exit(0)
    os.waitpid(child, 0)
    assert (bpffs / "link").exists()
    assert cgroup.path.exists()
    assert everything.info.cgroup_id
        """
    )
    assert output.rstrip().splitlines()[-1].count("1 passed")
    assert session.leaves_nothing()


def test_pins_outside_go_with_the_test(session: Session, outer_pin: Path) -> None:
    """A pin by a relative path, in another BPF FS than the session's, is removed as well."""
    output = session.run(
        f"""
def test_it(everything, cgroup, bpf_link, bpf_object, monkeypatch):
    other = bpf_link(bpf_object({str(OBJECT)!r}).program("egress"), cgroup)
    monkeypatch.chdir({str(outer_pin.parent)!r})
    other.pin("outer")
    monkeypatch.undo()

def test_after():
    assert not os.path.exists({str(outer_pin)!r})
        """
    )
    assert "2 passed" in output
    assert session.leaves_nothing()


def test_verifier_log_is_a_section_of_the_report(pytester: pytest.Pytester) -> None:
    refused = ROOT / "tests/bpf/progs/refused.bpf.c"
    pytester.makepyfile(f"def test_it(bpf_object):\n    bpf_object({str(refused)!r})")
    result = pytester.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        [
            "E *VerifierError: load BPF object *: EACCES*; the verifier says of program unchecked:",
            "E *...",
            "*- Verifier log -*",
            "0: *R1=ctx*",
        ]
    )


def test_short_verifier_log_stands_once(pytester: pytest.Pytester) -> None:
    (pytester.path / "refused.bpf.c").write_text(
        '__attribute__((section("socket"), naked)) int unset(void *ctx) { asm volatile("exit"); }'
    )
    pytester.makepyfile("def test_it(bpf_object):\n    bpf_object('refused.bpf.c')")
    output = pytester.runpytest_subprocess().stdout
    output.fnmatch_lines(["E *VerifierError: *; the verifier says of program unset:"])
    output.no_fnmatch_line("*- Verifier log -*")
    assert output.str().count("R0 !read_ok") == 1


def test_values_of_the_configuration_are_those_that_the_session_knows(
    pytester: pytest.Pytester,
) -> None:
    """The places where libbpf looks are /boot and /proc; some distributions have another."""
    (pytester.path / "hz.bpf.c").write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        "extern int CONFIG_HZ __kconfig;\nint hz;\n"
        'SEC("socket") int read_hz(void *ctx) { hz = CONFIG_HZ; return 0; }\n'
    )
    pytester.makepyfile(
        """
        import types
        import pytest

        @pytest.fixture
        def bpf_kernel():
            return types.SimpleNamespace(config={"CONFIG_HZ": "77", "CONFIG_LSM": "a,b"})

        def test_it(bpf_object):
            assert bpf_object("hz.bpf.c").kconfig["CONFIG_HZ"] == 77
            loaded = bpf_object("hz.bpf.c", kconfig={"CONFIG_HZ": 78})
            assert loaded.kconfig["CONFIG_HZ"] == 78
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_program_in_the_text_of_a_test_includes_headers_beside_it(
    pytester: pytest.Pytester,
) -> None:
    (pytester.path / "seven.h").write_text("#define SEVEN 7\n")
    pytester.makepyfile(
        """
        def test_it(bpf_open, bpf_source):
            assert bpf_open(bpf_source('#include "seven.h"\\nint x = SEVEN;')).data["x"] == 7
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize("source", ["int broken(void) { return nothing; }", None])
def test_traceback_of_a_failed_compilation_ends_in_the_test(
    pytester: pytest.Pytester, source: str | None
) -> None:
    if source:
        (pytester.path / "broken.bpf.c").write_text(source)
    pytester.makepyfile("def test_it(bpf_object):\n    bpf_object('broken.bpf.c')")
    output = pytester.runpytest_subprocess("-p", "no:cacheprovider").stdout
    place = str(pytester.path / "broken.bpf.c")
    said = [line[8:] for line in output.lines if line.startswith("E   ")]
    assert said[0].startswith(f"pytest_bpflink.errors.CompileError: compile {place}: ")
    if source:
        assert said[1] == f"  {place}:1:27: error: use of undeclared identifier 'nothing'"
    frames = [line for line in output.lines if re.match(r"\S+\.py:\d+: ", line)]
    assert len(frames) == 1
    assert frames[0].startswith("test_traceback")


@pytest.mark.parametrize("arguments", [(), ("-n1",)], ids=["here", "dealt-out"])
def test_header(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile("def test_it(cgroup): pass")
    result = pytester.runpytest_subprocess(*arguments)
    result.stdout.fnmatch_lines(
        [
            f"bpflink: Linux {os.uname().release} *BTF, libbpf 1.* (the system's), clang *",
            "bpflink: cgroup2 at /*, privileges complete",
        ]
    )


@pytest.mark.parametrize(
    ("test", "arguments"), [("test_it()", ()), ("test_it(cgroup)", ("-q",))], ids=["unused", "q"]
)
def test_no_header(pytester: pytest.Pytester, test: str, arguments: tuple[str, ...]) -> None:
    """A session that does not use the plugin, or is quiet, gets no header."""
    pytester.makepyfile(f"def {test}: pass")
    result = pytester.runpytest_subprocess(*arguments)
    result.stdout.no_fnmatch_line("bpflink:*")


def test_without_privilege_tests_are_skipped_with_the_way_out(pytester: pytest.Pytester) -> None:
    """Without capabilities a test is skipped; the reason names them, and a VM as the way out."""
    pytester.makepyfile("def test_it(cgroup): pass")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *PYTEST, "-rs"],
        capture_output=True,
        text=True,
        check=False,
        cwd=pytester.path,
    )
    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    lacking = "needs CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF, as root has"
    assert f", privileges incomplete: {lacking}" in done.stdout
    assert lacking in done.stdout.partition("short test summary")[2]
    assert "--kernel 6.12 runs the test in a VM" in done.stdout


def _refuse(path: Path) -> None:
    raise OSError(errno.EBUSY, "busy", path)


class _running:  # noqa: N801 - used as a function
    """Run a session until it says that it is ready; kill it at the end whatever happened."""

    def __init__(self, session: Session, tests: str) -> None:
        self._process = session.start(tests, "-s")

    def __enter__(self) -> tuple[subprocess.Popen[str], int]:
        assert self._process.stdout
        for line in self._process.stdout:
            if "ready" in line:
                return self._process, int(line.rpartition("ready ")[2])
        pytest.fail("the session ended before it was ready")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
