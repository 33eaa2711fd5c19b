"""Real guests of Linux 6.1, plain and warm ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import execnet
import pytest

from pytest_bpflink import eventually
from pytest_bpflink.vm.kernels import Kernel, find
from pytest_bpflink.vm.machines import console
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.machines.kvm import detect
from pytest_bpflink.vm.machines.machine import Machine
from pytest_bpflink.vm.warm.cold import ColdMachine
from pytest_bpflink.vm.warm.warm import WarmMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.vm.machines.acceleration import Acceleration

# A guest that is emulated beside others needs this long to run a line of Python.
DEADLINE = 60.0


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """Find the kernel that the guests run."""
    return find("6.1", progress=partial(print, file=sys.stderr))


@pytest.fixture(scope="module")
def acceleration(kernel: Kernel) -> Acceleration:
    """Choose the acceleration of guests on this host."""
    return detect(kernel)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the working directory and home of the guests."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def make_machine(
    kernel: Kernel,
    acceleration: Acceleration,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Machine]]:
    """Make machines, which end with the module."""
    made: list[Machine] = []

    def make(kind: type[Machine] = Machine, **options: Any) -> Machine:
        directory = tmp_path_factory.mktemp("machine") / "own"
        environment = os.environ | {"HOME": str(home), "GREETING": 'it\'s "$HOME"\nhere'}
        options = {"cwd": home, "environment": environment, **options}
        machine = kind(kernel, acceleration=acceleration, directory=directory, **options)
        made.append(machine)
        return machine

    yield make
    for machine in made:
        machine.close()


@pytest.fixture(scope="module")
def group() -> Iterator[execnet.Group]:
    """Make an execnet group that ends with the module."""
    made = execnet.Group()
    yield made
    made.terminate(timeout=DEADLINE)


@pytest.fixture(scope="module", params=[Machine, WarmMachine])
def pair(
    make_machine: Callable[..., Machine], request: pytest.FixtureRequest
) -> tuple[Machine, Machine]:
    """Boot two guests side by side: plain ones (virtme-ng's), and warm ones."""
    machines = make_machine(request.param), make_machine(request.param)
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.wait_ready()
    return machines


@pytest.fixture(scope="module")
def guest(pair: tuple[Machine, Machine], group: execnet.Group) -> execnet.Gateway:
    """Reach the Python of one guest."""
    return group.makegateway(f"popen//python={pair[0].gateway_python}")


@pytest.fixture(scope="module")
def doomed(pair: tuple[Machine, Machine], group: execnet.Group) -> execnet.Gateway:
    """Reach the Python of the other guest, which one test may end."""
    return group.makegateway(f"popen//python={pair[1].gateway_python}")


def ask(gateway: execnet.Gateway, source: str) -> Any:
    """Run SOURCE in the guest, and return what it puts into `answer`."""
    return gateway.remote_exec(f"{source}\nchannel.send(answer)").receive(DEADLINE)


def test_guest_runs_the_kernel_with_the_host_s_python(
    guest: execnet.Gateway, kernel: Kernel
) -> None:
    source = "import os, sys\nanswer = (os.uname().release, sys.executable, sys.path[1:])"
    release, executable, path = ask(guest, source)
    assert release == kernel.release
    assert executable == sys.executable
    plain = [sys.executable, "-u", "-c", "import sys; print(sys.path[1:])"]
    here = subprocess.check_output(plain, text=True, cwd="/")
    assert str(path) == here.strip()


def test_guest_has_directory_and_environment(guest: execnet.Gateway, home: Path) -> None:
    source = "import os\nanswer = (os.getcwd(), dict(os.environ))"
    cwd, environment = ask(guest, source)
    assert cwd == str(home)
    assert environment["GREETING"] == 'it\'s "$HOME"\nhere'
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["HOME"] == str(home)


def test_guest_has_a_name_of_its_own(guest: execnet.Gateway) -> None:
    assert ask(guest, "import socket\nanswer = socket.gethostname()") != socket.gethostname()


def test_what_a_guest_writes_stays_there(guest: execnet.Gateway, home: Path) -> None:
    (home / "kept").write_text("host")
    source = f"""
import os
from pathlib import Path
answer = Path({str(home)!r}, "kept").read_text()
Path({str(home)!r}, "kept").write_text("guest")
for directory in {str(home)!r}, "/tmp", "/var/tmp", "/run", "/etc", "/usr", "/dev/shm":
    Path(directory, "bpflink-was-here").touch()
"""
    assert ask(guest, source) == "host"
    assert (home / "kept").read_text() == "host"
    assert list(Path("/tmp").glob("bpflink-was-here")) == []
    assert list(home.glob("bpflink*")) == []


@pytest.mark.parametrize(
    ("path", "filesystem"),
    [
        ("/sys/fs/cgroup", "cgroup2"),
        ("/sys/fs/bpf", "bpf"),
        ("/sys/kernel/tracing", "tracefs"),
        ("/sys/kernel/debug", "debugfs"),
        ("/dev/shm", "tmpfs"),
        ("/dev/pts", "devpts"),
    ],
)
def test_mounts(guest: execnet.Gateway, path: str, filesystem: str) -> None:
    mounts = dict(line.split()[1:3] for line in ask(guest, MOUNTS).splitlines())
    assert mounts.get(path) == filesystem


MOUNTS = "answer = open('/proc/mounts').read()"


def test_worker_is_called_after_its_python(guest: execnet.Gateway) -> None:
    name = ask(guest, "answer = open('/proc/self/comm').read()")
    assert name == f"{Path(sys.executable).name}\n"


def test_kernel_guards_against_speculation(guest: execnet.Gateway) -> None:
    """Otherwise Linux 6.7's verifier passes unprivileged programs that it refuses elsewhere."""
    source = "answer = open('/sys/devices/system/cpu/vulnerabilities/spectre_v1').read()"
    assert ask(guest, source).startswith("Mitigation: ")


def test_memlock_is_unlimited(guest: execnet.Gateway) -> None:
    source = "import resource\nanswer = resource.getrlimit(resource.RLIMIT_MEMLOCK)"
    assert ask(guest, source) == (-1, -1)


def test_loopback_is_up(guest: execnet.Gateway) -> None:
    source = """
import socket
server = socket.create_server(("127.0.0.1", 0))
answer = bool(socket.create_connection(server.getsockname()).getpeername())
"""
    assert ask(guest, source)


def test_bpf_is_among_the_security_modules(guest: execnet.Gateway) -> None:
    modules = ask(guest, "answer = open('/sys/kernel/security/lsm').read()")
    assert "bpf" in modules.split(",")


def test_modules_load_but_for_bpf_preload(guest: execnet.Gateway) -> None:
    source = """
import subprocess
helper = open("/proc/sys/kernel/modprobe").read().strip()
status = [subprocess.run([helper, "-q", "--", name]).returncode for name in ("veth", "bpf_preload")]
answer = helper, status
"""
    assert ask(guest, source) == ("/run/modprobe", [0, 1])


def test_channel_is_binary_clean(guest: execnet.Gateway) -> None:
    everything = bytes(range(256)) * 4096
    channel = guest.remote_exec("channel.send(channel.receive())")
    channel.send(everything)
    assert channel.receive(DEADLINE) == everything


def test_panic_ends_the_guest_and_is_on_its_console(
    pair: tuple[Machine, Machine], doomed: execnet.Gateway
) -> None:
    channel = doomed.remote_exec("open('/proc/sysrq-trigger', 'w').write('c')")
    with pytest.raises(EOFError):
        channel.receive(DEADLINE)
    machine = pair[1]
    eventually(lambda: not machine.alive, within=DEADLINE)
    assert machine.returncode == 0
    cause = console.cause(machine.console_tail())
    assert cause == "Kernel panic - not syncing: sysrq triggered crash"


def test_machine_whose_kernel_panics_at_boot(make_machine: Callable[..., Machine]) -> None:
    machine = make_machine(append=["rdinit=/nothing", "root=/dev/nothing", "rootfstype=ext4"])
    machine.start()
    with pytest.raises(BootFailed, match=r"before its Python ran(.|\n)*Kernel panic") as caught:
        machine.wait_ready()
    assert not caught.value.timed_out
    assert not machine.alive


def test_word_that_the_kernel_does_not_know_is_not_passed_to_python(
    make_machine: Callable[..., Machine], group: execnet.Group
) -> None:
    """Linux hands such words to init."""
    machine = make_machine(ColdMachine, append=["unheard-of"])
    machine.start()
    machine.wait_ready()
    guest = group.makegateway(f"popen//python={machine.gateway_python}")
    assert "unheard-of" in ask(guest, "answer = open('/proc/cmdline').read()").split()
    machine.close()


def test_machine_that_is_not_up_in_time(
    make_machine: Callable[..., Machine], tmp_path: Path
) -> None:
    machine = make_machine(console_log=tmp_path / "kept.log")
    machine.start()
    assert machine.alive
    with pytest.raises(BootFailed, match=r"was not up after \d+ s before its Python ran") as caught:
        machine.wait_ready(timeout=0.2)
    assert caught.value.timed_out
    assert machine.returncode == -signal.SIGKILL
    assert (tmp_path / "kept.log").exists()


def test_link_in_place_of_the_console_s_log_is_not_followed(
    make_machine: Callable[..., Machine], tmp_path: Path
) -> None:
    target, log = tmp_path / "target", tmp_path / "kept.log"
    target.write_text("another's")
    log.symlink_to(target)
    machine = make_machine(console_log=log)

    with pytest.raises(OSError, match="a symbolic link is not followed"):
        machine.start()

    assert target.read_text() == "another's"
    assert not machine.alive


def test_link_that_takes_the_place_of_the_console_s_log_later_is_not_followed(
    make_machine: Callable[..., Machine], tmp_path: Path
) -> None:
    """QEMU writes to the file that was opened, whatever its name leads to then."""
    target, log = tmp_path / "target", tmp_path / "kept.log"
    target.write_text("another's")
    machine = make_machine(console_log=log)
    machine.start()
    log.rename(tmp_path / "kept")
    log.symlink_to(target)

    eventually((tmp_path / "kept").read_bytes, within=60, what="QEMU writes the console")
    machine.close()

    assert target.read_text() == "another's"


def test_no_qemu_survives_the_process_that_started_it(kernel: Kernel, tmp_path: Path) -> None:
    program = f"""
import sys, time
from pathlib import Path
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.kernels import find
from pytest_bpflink.vm.machines.machine import Machine
machine = Machine(find({str(kernel.image)!r}), acceleration=Acceleration(kvm=False, reason="TCG"),
                  directory=Path(sys.argv[1]), cwd=Path("/"), environment={{}})
machine.start()
print("started", flush=True)
time.sleep(60)
"""
    directory = tmp_path / "machine"
    command = [sys.executable, "-c", program, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "started\n"
        eventually(lambda: len(processes_of(directory)) == 1, within=2)
        parent.kill()
    eventually(lambda: not processes_of(directory), within=2)


def processes_of(directory: Path) -> list[str]:
    """Return the QEMU processes that have DIRECTORY on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if b"qemu" in command.split(b"\0")[0] and bytes(directory) in command:
            found.append(path.parent.name)
    return found
