"""Real warm guests of Linux 6.1: saving, restoring, and the state that guests do not share.

`test_machine` tests the behaviour that warm and plain guests have in common.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import execnet
import pytest

import pytest_bpflink
from pytest_bpflink import eventually
from pytest_bpflink.vm.image import guest_image, inventory
from pytest_bpflink.vm.image.inventory import ImageError
from pytest_bpflink.vm.kernels import Kernel, find
from pytest_bpflink.vm.machines import plain
from pytest_bpflink.vm.machines.errors import BootFailed
from pytest_bpflink.vm.machines.kvm import detect
from pytest_bpflink.vm.warm import letter, warm
from pytest_bpflink.vm.warm.saves import Save, Saves, _digest
from pytest_bpflink.vm.warm.warm import WarmMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_bpflink.vm.machines.acceleration import Acceleration
    from pytest_bpflink.vm.warm.cold import ColdMachine

# A guest that is emulated beside others needs this long to run a line of Python.
DEADLINE = 60.0


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    """Find the kernel that the guests run."""
    return find("6.1")


@pytest.fixture(scope="module")
def acceleration(kernel: Kernel) -> Acceleration:
    """Choose the acceleration of guests on this host."""
    return detect(kernel)


@pytest.fixture(scope="module")
def saves(
    kernel: Kernel, acceleration: Acceleration, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Saves]:
    """Make an empty directory for saves, for the tests of this file."""
    del kernel, acceleration  # these come from the user's own cache
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPFLINK_CACHE", str(cache))
        yield Saves(cache / "guests")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory that the guests start in."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def new_machine(
    kernel: Kernel,
    acceleration: Acceleration,
    saves: Saves,
    home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., ColdMachine]]:
    """Make machines, which end with the module."""
    del saves  # only its directory is needed
    made: list[ColdMachine] = []

    def make(
        kind: type[ColdMachine] = WarmMachine, *, kernel: Kernel = kernel, **options: Any
    ) -> ColdMachine:
        machine = kind(
            kernel,
            acceleration=acceleration,
            directory=tmp_path_factory.mktemp("machine") / "own",
            **{"cwd": home, "environment": dict(os.environ), **options},
        )
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


@pytest.fixture(scope="module")
def the_save(new_machine: Callable[..., ColdMachine], saves: Saves) -> Save:
    """Start a first machine, which saves a guest, and return the save."""
    said: list[str] = []
    machine = new_machine(say=said.append)
    machine.start()
    machine.wait_ready()
    machine.close()
    assert said == ["saving a guest, which later ones are restored from"]
    (directory,) = (path.parent for path in saves.root.glob("*/save.json"))
    found = saves.find(directory.name)
    assert found
    return found


@pytest.fixture(scope="module")
def pair(
    new_machine: Callable[..., ColdMachine], the_save: Save, group: execnet.Group
) -> list[execnet.Gateway]:
    """Restore two guests from one save, and reach their Pythons."""
    said: list[str] = []
    machines = [new_machine(say=said.append) for _ in range(2)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.wait_ready()
    assert the_save.mapped
    assert not said
    return [connect(machine, group) for machine in machines]


def connect(machine: ColdMachine, group: execnet.Group) -> execnet.Gateway:
    return group.makegateway(f"popen//python={machine.gateway_python}")


def ask(gateway: execnet.Gateway, source: str) -> Any:
    """Run SOURCE in the guest, and return what it puts into `answer`."""
    return gateway.remote_exec(f"{source}\nchannel.send(answer)").receive(DEADLINE)


@pytest.mark.parametrize(
    "source",
    [
        "import os; answer = os.urandom(16)",
        "import os; answer = os.getrandom(16)",
        "import uuid; answer = str(uuid.uuid4())",
        "import random; answer = random.random()",
        "import secrets; answer = secrets.token_hex()",
        "import tempfile; answer = tempfile.mkdtemp()",
        "answer = open('/proc/sys/kernel/random/boot_id').read()",
        "answer = open('/proc/sys/kernel/random/uuid').read()",
    ],
)
def test_randomness_is_each_guest_s_own(pair: list[execnet.Gateway], source: str) -> None:
    first, second = (ask(guest, source) for guest in pair)
    assert first != second


def test_clock_is_set_to_the_time_in_the_letter(
    new_machine: Callable[..., ColdMachine],
    the_save: Save,
    group: execnet.Group,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not to the host's, for the letter ages until the guest reads it; on a busy host, seconds."""
    assert the_save
    sent = 1e9
    monkeypatch.setattr(letter, "time", SimpleNamespace(time=lambda: sent))
    machine = new_machine()
    machine.start()
    machine.wait_ready()

    there = ask(connect(machine, group), "import time; answer = time.time()")

    assert sent < there < sent + DEADLINE
    machine.close()


def test_letter_has_the_present_time(home: Path) -> None:
    before = time.time()
    worker = plain.Worker(sys.executable, home, {})
    facts: dict[str, Any] = {"host_name": "", "modules": None, "config": None, "plugin": ""}
    written = letter.compose(worker, **facts, path=[], visible=[])
    assert before <= json.loads(written[8:])["time"] <= time.time()


def test_umask_and_limits_are_the_host_s(pair: list[execnet.Gateway]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    limits = [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
    source = """
import os, resource
limits = [resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)]
answer = os.umask(0), limits
"""
    assert ask(pair[0], source) == (umask, limits)


def test_python_is_one_that_was_just_started(pair: list[execnet.Gateway], home: Path) -> None:
    source = """
import os, sys
names = [name for name in ("mounts", "preload", "session", "worker") if name in sys.modules]
answer = sys.argv, sys.path[0], names, os.getcwd(), os.getppid()
"""
    assert ask(pair[0], source) == (["-c"], "", [], str(home), 1)


def test_what_execnet_sends_was_compiled_when_the_guest_was_saved(
    pair: list[execnet.Gateway],
) -> None:
    """If execnet sent other code, it would work too, but the guest would compile it first."""
    source = "import __main__; answer = __main__.compile.__module__, __main__.Message.__module__"
    assert ask(pair[0], source) == ("worker", "__main__")


def test_descriptors_are_the_standard_ones(pair: list[execnet.Gateway]) -> None:
    source = "import subprocess\nanswer = subprocess.check_output(['ls', '/dev/fd/'], text=True)"
    assert ask(pair[0], source).split() == ["0", "1", "2", "3"]


def test_kernel_loads_modules_itself(pair: list[execnet.Gateway]) -> None:
    """Kernel threads, which run modprobe, have the root that PID 1 has changed to."""
    source = """
import socket
with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
    answer = any(line.startswith("vsock ") for line in open("/proc/modules"))
"""
    assert ask(pair[0], source)


def test_mapped_libraries_are_the_files_at_their_paths(pair: list[execnet.Gateway]) -> None:
    """A uprobe is attached to a file: calls of another copy of libc do not fire it."""
    source = """
import os
lines = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
files = {fields[5].strip(): int(fields[4]) for fields in lines if len(fields) > 5}
answer = [path for path in files if "/libc" in path or "/bin/python" in path]
for path in answer:
    assert os.stat(path).st_ino == files[path]
"""
    assert len(ask(pair[0], source)) >= 2


def test_directories_of_mapped_libraries_are_as_on_the_host(pair: list[execnet.Gateway]) -> None:
    source = """
import os, stat
lines = [line.split(maxsplit=5) for line in open("/proc/self/maps")]
files = {fields[5].strip() for fields in lines if len(fields) > 5 and fields[5].startswith("/")}
answer = {}
for directory in {os.path.dirname(file) for file in files}:
    while directory not in answer:
        found = os.stat(directory)
        answer[directory] = [found.st_mode, found.st_uid, found.st_gid], os.listdir(directory)
        directory = os.path.dirname(directory)
del answer["/"]
"""
    answer = ask(pair[0], source)
    assert len(answer) >= 2
    for directory, (attributes, names) in answer.items():
        here = os.stat(directory)
        assert attributes == [here.st_mode, here.st_uid, here.st_gid], directory
        assert len(names) == len(set(names))
        # The guest may have put its modules there.
        assert set(names) - {"modules"} == set(os.listdir(directory)) - {"modules"}, directory


def test_dir_of_a_preloaded_plugin_is_short_twice_and_then_complete(
    pair: list[execnet.Gateway],
) -> None:
    """A session calls dir() on a plugin twice: for its hooks, then for its fixtures."""
    source = """
import sys, pytest
tmpdir = sys.modules[pytest.TempPathFactory.__module__]
answer = [dir(tmpdir), dir(tmpdir), dir(tmpdir), sorted(vars(tmpdir))]
"""
    hooks, fixtures, names, all_names = ask(pair[0], source)
    assert hooks == fixtures
    assert {"tmp_path", "tmp_path_factory", "pytest_addoption", "pytest_configure"} <= set(hooks)
    assert len(hooks) < len(names) / 2
    assert names == all_names


def test_entry_points_are_known_unless_they_are_the_guest_s_own(
    pair: list[execnet.Gateway],
) -> None:
    """A session of pytest reads all entry points twice, and their files are on the host."""
    source = """
import sys
from importlib import metadata
from pathlib import Path

def names():
    (found,) = metadata.distributions(name="offering", path=["/tmp/offers"])
    return [each.name for each in found.entry_points]

read = []
def hook(event, arguments):
    if event == "open" and str(arguments[0]).endswith("entry_points.txt"):
        read.append(arguments[0])
sys.addaudithook(hook)
all_points = [point for each in metadata.distributions() for point in each.entry_points]
answer = [sorted({(each.name, each.value, each.group) for each in all_points}), len(read)]
directory = Path("/tmp/offers/offering-1.dist-info")
directory.mkdir(parents=True)
answer.append(names())
(directory / "entry_points.txt").write_text("[some]\\none=a\\n")
answer.append(names())
(directory / "entry_points.txt").write_text("[some]\\nanother=a\\n")
answer.append(names())
"""
    all_points = [point for each in metadata.distributions() for point in each.entry_points]
    here = sorted({(each.name, each.value, each.group) for each in all_points})
    assert here
    assert ask(pair[0], source) == [here, 0, [], ["one"], ["another"]]


def test_orphans_are_reaped(pair: list[execnet.Gateway]) -> None:
    source = """
import os, subprocess, time
orphan = int(subprocess.check_output(["sh", "-c", "sleep 0 & echo $!"], text=True))
deadline = time.monotonic() + 30
while os.path.exists(f"/proc/{orphan}") and time.monotonic() < deadline:
    time.sleep(0.01)
answer = os.path.exists(f"/proc/{orphan}")
"""
    assert not ask(pair[0], source)


def test_init_takes_turns_with_a_busy_worker(pair: list[execnet.Gateway]) -> None:
    """Otherwise TCG never enlarges its table of the processor's pages: see `agent.py`."""
    source = """
import time
def turns():
    (line,) = [line for line in open("/proc/1/status") if line.startswith("voluntary")]
    return int(line.split()[1])
before, deadline = turns(), time.monotonic() + 10
while turns() < before + 3 and time.monotonic() < deadline:
    pass
answer = turns() - before
"""
    assert ask(pair[0], source) >= 3


def test_qemu_has_few_queues_to_watch(
    new_machine: Callable[..., ColdMachine], the_save: Save
) -> None:
    """QEMU has an eventfd for each queue, and looks at all queues whenever it wakes."""
    assert the_save
    machine = new_machine()
    machine.start()
    machine.wait_ready()
    assert machine._process
    descriptors = Path(f"/proc/{machine._process.pid}/fd").iterdir()
    events = [each for each in descriptors if "eventfd" in os.readlink(each)]
    assert 0 < len(events) < 50


def test_file_that_changed_on_the_host_since_the_guest_was_saved_is_seen(
    new_machine: Callable[..., ColdMachine], the_save: Save, home: Path, group: execnet.Group
) -> None:
    assert the_save
    module = home / "under_test.py"
    source = "import sys; sys.path.insert(0, '.'); import under_test; answer = under_test.VALUE"
    for value in (1, 2):
        module.write_text(f"VALUE = {value}")
        machine = new_machine(environment={"PATH": os.environ["PATH"], "NUMBER": str(value)})
        machine.start()
        machine.wait_ready()
        guest = connect(machine, group)
        assert ask(guest, source) == value
        assert ask(guest, "import os; answer = os.environ['NUMBER']") == str(value)
        machine.close()


def test_plugin_that_was_edited_since_the_guest_was_saved_is_imported_anew(
    kernel: Kernel, saves: Saves, tmp_path: Path
) -> None:
    """The plugin is preloaded, but guests must run it as the host's files are now."""
    package = tmp_path / "checkout" / "pytest_bpflink"
    shutil.copytree(Path(pytest_bpflink.__file__).parent, package)
    (tmp_path / "home").mkdir()
    program = f"""
import os, sys
from pathlib import Path
import execnet
import pytest_bpflink
from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.warm import warm
from pytest_bpflink.vm.machines.acceleration import Acceleration
assert pytest_bpflink.__file__ == {str(package / "__init__.py")!r}
kernel = kernels.find({str(kernel.image)!r})
machine = warm.WarmMachine(kernel, acceleration=Acceleration({detect(kernel).kvm}, ""),
                           directory=Path(sys.argv[1]), cwd=Path("home").absolute(),
                           environment=dict(os.environ), say=lambda text: print("said", text))
machine.start()
machine.wait_ready()
guest = execnet.makegateway(f"popen//python={{machine.gateway_python}}")
source = '''
import sys
there = "pytest_bpflink.bpf.wait" in sys.modules
from pytest_bpflink.bpf import wait
channel.send((there, getattr(wait, "EDITED", False)))
'''
print(*guest.remote_exec(source).receive(60))
machine.close()
"""

    def run(number: int) -> list[str]:
        environment = os.environ | {"PYTHONPATH": str(package.parent)}
        command = [sys.executable, "-c", program, str(tmp_path / f"machine{number}")]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout.splitlines()

    before = set(saves.root.glob("*/save.json"))
    assert run(1) == ["said saving a guest, which later ones are restored from", "True False"]
    with (package / "bpf" / "wait.py").open("a") as module:
        module.write("EDITED = True\n")
    assert run(2) == ["False True"]
    assert len(set(saves.root.glob("*/save.json")) - before) == 1


def test_writing_reaches_neither_the_host_nor_the_save(
    pair: list[execnet.Gateway], the_save: Save, home: Path, saves: Saves
) -> None:
    for path in (home / "written", Path("/usr/bpflink-was-here"), Path("/run/bpflink-was-here")):
        source = f"open({str(path)!r}, 'w').write('x'); answer = open({str(path)!r}).read()"
        assert ask(pair[0], source) == "x"
        assert not path.exists()
    assert saves.find(the_save.directory.name) == the_save


def test_own_name_and_the_kernel_s_configuration_are_found(
    pair: list[execnet.Gateway], kernel: Kernel
) -> None:
    source = f"""
import socket
name = socket.gethostname()
answer = name, socket.gethostbyname(name), open("/boot/config-{kernel.release}").read()
"""
    assert kernel.config_file
    assert ask(pair[0], source) == ("bpflink-6-1", "127.0.0.1", kernel.config_file.read_text())


def test_directory_of_the_host_is_renamed(pair: list[execnet.Gateway], home: Path) -> None:
    (home / "directory" / "below").mkdir(parents=True)
    source = "import os; os.rename('directory', 'renamed'); answer = os.listdir('renamed')"
    assert ask(pair[0], source) == ["below"]
    assert (home / "directory").exists()


def test_full_file_systems_are_errors_and_leave_room_for_the_worker(
    new_machine: Callable[..., ColdMachine], the_save: Save, group: execnet.Group
) -> None:
    assert the_save
    machine = new_machine()
    machine.start()
    machine.wait_ready()
    source = """
answer = []
for place in ("/dev/shm", "/run", "/tmp"):
    with open(f"{place}/full", "wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError as error:
            answer.append(error.errno)
answer.append(len(bytes(32 << 20)))
"""
    answer = ask(connect(machine, group), source)
    machine.close()
    assert answer == [errno.ENOSPC, errno.ENOSPC, errno.ENOSPC, 32 << 20]


def test_directory_below_run_is_seen(
    new_machine: Callable[..., ColdMachine], the_save: Save, group: execnet.Group
) -> None:
    """A guest's /run is another file system than the host's."""
    assert the_save
    directory = Path("/run/bpflink-test")
    directory.mkdir()
    try:
        (directory / "file").write_text("there")
        machine = new_machine(cwd=directory)
        machine.start()
        machine.wait_ready()
        source = "answer = open('file').read(), open('new', 'w').write('x')"
        assert ask(connect(machine, group), source) == ("there", 1)
        machine.close()
        assert not (directory / "new").exists()
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def moved_kernel(kernel: Kernel, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """Copy the kernel, its indexes of modules, and the modules that the test needs."""
    assert kernel.modules
    root, modules = tmp_path_factory.mktemp("kernel"), Path("lib/modules") / kernel.release
    here, there = kernel.modules / modules, root / modules
    needed = [*guest_image.needed_modules(here), *here.rglob("dummy.ko*")]
    for path in [*here.glob("modules.*"), *needed]:
        (there / path.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there / path.relative_to(here))
    shutil.copyfile(kernel.image, root / "vmlinuz")
    return replace(kernel, image=root / "vmlinuz", modules=root)


def test_guest_that_another_machine_saved_is_restored(
    new_machine: Callable[..., ColdMachine],
    the_save: Save,
    moved_kernel: Kernel,
    group: execnet.Group,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on CI: the cache came in an archive, and it and the kernel are at other paths."""
    cache, elsewhere = the_save.directory.parents[1], moved_kernel.image.with_name("cache")
    elsewhere.mkdir()
    with subprocess.Popen(["tar", "-cC", cache, "guests"], stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-xC", elsewhere], stdin=packing.stdout, check=True)
    for path in elsewhere.rglob("*"):
        os.utime(path)
    monkeypatch.setenv("BPFLINK_CACHE", str(elsewhere))
    said: list[str] = []
    machine = new_machine(say=said.append, kernel=moved_kernel)

    machine.start()
    machine.wait_ready()

    assert not said
    source = f"""
import os, subprocess
subprocess.run(["modprobe", "dummy"], check=True)
answer = os.path.realpath("/lib/modules/{moved_kernel.release}")
"""
    there = ask(connect(machine, group), source)
    assert Path(there).is_relative_to(moved_kernel.image.parent)
    machine.close()


def test_run_waits_while_another_one_saves(
    new_machine: Callable[..., ColdMachine], the_save: Save, saves: Saves, tmp_path: Path
) -> None:
    key = the_save.directory.name
    hidden = the_save.directory.rename(tmp_path / "hidden")
    machine = new_machine()
    with saves.lock(key):
        machine.start()
        assert not machine.alive
        hidden.rename(the_save.directory)
    machine.wait_ready()
    assert machine.alive
    machine.close()


def test_command_in_a_save_is_not_run(
    new_machine: Callable[..., ColdMachine], the_save: Save, saves: Saves, tmp_path: Path
) -> None:
    command = {"command": ["touch", str(tmp_path / "run")], "consoles": []}
    description = the_save.directory / "save.json"
    described = json.loads(description.read_text()) | command | {"blueprint": command}
    description.write_text(json.dumps(described))
    machines = [*saves.root.glob("machine-*.json")]
    assert machines
    for kept in machines:
        kept.write_text(json.dumps(command))
    assert saves.root.stat().st_mode & 0o777 == 0o700
    said: list[str] = []
    machine = new_machine(say=said.append)
    machine.start()
    machine.wait_ready()
    machine.close()
    assert said == []
    assert not (tmp_path / "run").exists()


def test_guest_that_is_killed_while_it_is_restored_leaves_its_save(
    new_machine: Callable[..., ColdMachine], the_save: Save, saves: Saves
) -> None:
    said: list[str] = []
    machine = new_machine(say=said.append)
    machine.start()
    machine.kill()
    with pytest.raises(BootFailed, match="was killed by this run before its Python ran"):
        machine.wait_ready()
    machine.close()
    assert said == []
    assert not machine.alive
    assert saves.find(the_save.directory.name) == the_save


def test_guest_whose_qemu_dies_once_is_restored_from_the_same_save(
    new_machine: Callable[..., ColdMachine], the_save: Save, saves: Saves
) -> None:
    """As where the host has no memory left: the save is whole."""
    said: list[str] = []
    machine = new_machine(say=said.append)
    before = the_save.memory.stat().st_ino
    machine.start()
    assert machine._process
    machine._process.kill()
    machine.wait_ready()
    machine.close()
    assert said == []
    assert saves.find(the_save.directory.name) == the_save
    assert the_save.memory.stat().st_ino == before


def test_save_that_can_not_be_restored_is_made_again(
    new_machine: Callable[..., ColdMachine], the_save: Save, saves: Saves
) -> None:
    """The save is whole on disk, but QEMU can't read it."""
    spoil(the_save)
    said: list[str] = []
    machine = new_machine(say=said.append)
    machine.start()
    machine.wait_ready()
    machine.close()
    assert said == ["saving a guest, which later ones are restored from"]
    again = saves.find(the_save.directory.name)
    assert again
    assert again.state.stat().st_size > 1000


def test_guest_that_can_not_be_restored_twice_is_booted(
    new_machine: Callable[..., ColdMachine],
    the_save: Save,
    monkeypatch: pytest.MonkeyPatch,
    group: execnet.Group,
) -> None:
    spoil(the_save)
    keep = Saves.keep

    def keep_spoilt(*arguments: Any, **options: Any) -> Save:
        made = keep(*arguments, **options)
        spoil(made)
        return made

    monkeypatch.setattr(Saves, "keep", keep_spoilt)
    said: list[str] = []
    machine = new_machine(say=said.append)
    machine.start()
    machine.wait_ready()
    assert said[0] == "saving a guest, which later ones are restored from"
    assert said[1].startswith("the guest is booted, since it can't be restored: ")
    assert len(said) == 2
    assert ask(connect(machine, group), "answer = 1") == 1
    machine.close()


def spoil(save: Save) -> None:
    save.state.write_bytes(b"no QEMU")
    description = save.directory / "save.json"
    described = json.loads(description.read_text())
    described["state"] = _digest(save.state)
    description.write_text(json.dumps(described))


def test_memory_that_can_not_be_mapped_is_read(
    new_machine: Callable[..., ColdMachine], monkeypatch: pytest.MonkeyPatch, group: execnet.Group
) -> None:
    """As with a QEMU before 4.0."""
    monkeypatch.setattr(warm, "_MAPPING", {"capability": "unknown", "state": True})
    said: list[str] = []
    machine = new_machine(say=said.append, memory_mib=503)
    machine.start()
    machine.wait_ready()
    assert said == [
        "saving a guest, which later ones are restored from",
        "the guest's memory is read, since this QEMU can't map what it saved",
    ]
    assert ask(connect(machine, group), "answer = 1") == 1
    machine.close()


def test_python_that_no_image_can_be_made_of_gets_a_plain_guest(
    new_machine: Callable[..., ColdMachine], monkeypatch: pytest.MonkeyPatch, group: execnet.Group
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ImageError("it is in a zip file")

    monkeypatch.setattr(inventory, "take", refuse)
    said: list[str] = []
    machine = new_machine(say=said.append)
    machine.start()
    machine.wait_ready()
    assert said == ["the guest is a plain one: it is in a zip file"]
    assert ask(connect(machine, group), "answer = 1") == 1
    machine.close()


def test_guest_that_has_no_room_to_be_saved_is_booted(
    new_machine: Callable[..., ColdMachine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Full())
    said: list[str] = []
    # Another amount of memory has no save yet.
    machine = new_machine(say=said.append, memory_mib=500)
    machine.start()
    machine.wait_ready()
    assert len(said) == 1
    assert "516 MiB are needed" in said[0]
    machine.close()


class _Full:
    free = 1 << 20


def test_guest_whose_memory_can_not_be_written_is_booted(
    new_machine: Callable[..., ColdMachine], saves: Saves, group: execnet.Group
) -> None:
    """As on a disk that is full, or fails: QEMU dies of SIGBUS."""
    said: list[str] = []
    machine = new_machine(say=said.append, memory_mib=505)
    machine.start()
    (memory,) = saves.root.glob(".saving-*/memory")
    assert machine._process
    maps = Path(f"/proc/{machine._process.pid}/maps")
    eventually(lambda: str(memory) in maps.read_text())
    os.truncate(memory, 0)
    machine.wait_ready()
    cause = "QEMU could not write the guest's memory: SIGBUS"
    assert said == [
        "saving a guest, which later ones are restored from",
        f"the guest is booted, since it can't be restored: {cause}",
    ]
    assert ask(connect(machine, group), "answer = 1") == 1
    machine.close()


def test_run_that_is_killed_while_saving_leaves_no_save(
    kernel: Kernel, saves: Saves, tmp_path: Path
) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from pytest_bpflink.vm.machines.acceleration import Acceleration
from pytest_bpflink.vm.image.guest_image import ImageError
from pytest_bpflink.vm.kernels import find
from pytest_bpflink.vm.warm.warm import WarmMachine
machine = WarmMachine(find({str(kernel.image)!r}), acceleration=Acceleration(False, "TCG"),
                      directory=Path(sys.argv[1]), cwd=Path("/"), environment=dict(os.environ),
                      memory_mib=501)
machine.start()
print(machine._key, flush=True)
machine.wait_ready()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "machine")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        key = run.stdout.readline().strip()
        eventually(lambda: list(saves.root.glob(f".saving-{key}-*/memory")), within=DEADLINE)
        run.kill()
    assert saves.find(key) is None
    with saves.lock(key).acquire(timeout=2), saves.making(key, room=1):
        assert len(list(saves.root.glob(f".saving-{key}-*"))) == 1
