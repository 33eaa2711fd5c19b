"""PID 1 of our own guests: sets up the guest before it is saved, and after it is restored.

It runs in the guest's image, on the host's Python. It loads kernel modules, forks the `worker`, and
waits for the host's letter, while the guest may be saved and restored. Then it sets clock, random
seed and host name, changes to the host's root, and hands the letter to the worker. Standard library
only, and no program is run: under emulation each takes tenths of a second.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_bpflink.vm.guest import mounts, worker
else:
    # Beside it in the image, where Python does not look with PYTHONSAFEPATH.
    if sys.flags.safe_path:
        sys.path.insert(0, os.path.dirname(__file__))
    import mounts
    import worker

_CHUNK = 1 << 16

# Between two looks for children that ended, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0

Letter = dict[str, Any]

IMAGE = Path("/bpflink")

# The line that the host waits for before it saves the guest; READY in worker.py comes next.
BOOTED = b"bpflink: guest booted\n"

_MODPROBE = "/run/modprobe"
# Each BPF FS mount asks for bpf_preload, which starts a user-mode helper: refuse it at once.
_MODPROBE_SCRIPT = """#!{shell}
case "$*" in *bpf_preload*) exit 1 ;; esac
exec /sbin/modprobe "$@"
"""

# linux/random.h, linux/sockios.h, linux/if.h, linux/reboot.h
# A restart ends QEMU (-no-reboot), as a panic does; to power off takes a kernel with ACPI.
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_RESTART = 0x01234567

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Be PID 1; return in the worker, whose Python then ends as any other."""
    # Imports leave nothing to collect.
    gc.disable()
    with Path("/dev/console").open("wb", buffering=0) as console:
        for descriptor in range(3):
            os.dup2(console.fileno(), descriptor)
    settings = json.loads((IMAGE / "settings.json").read_text())
    _be_the_same_python(settings["executable"], settings["python"])
    mounts.mount_own()
    _set_up_kernel(settings["shell"])
    for module in settings["modules"]:
        _load(IMAGE / "modules" / module, settings["finit_module"])
    lacking = [option for option, sign in settings["signs"].items() if not _shows(*sign)]
    if lacking:
        _print_on_console(f"this kernel lacks {' '.join(lacking)}")
        _libc.reboot(ctypes.c_int(_RESTART))
    ports = [_port(name, mode) for name, mode in _PORTS]
    # The worker is forked before the save, so restoring takes no fork; and before the imports, so
    # it shares no memory with this process that it would copy page by page.
    from_parent, to_worker = os.pipe()
    from_worker, to_parent = os.pipe()
    child = os.fork()
    if not child:
        os.close(to_worker)
        os.close(from_worker)
        worker.main(from_parent, to_parent, ports, settings)
        return
    os.close(from_parent)
    os.close(to_parent)
    if not os.read(from_worker, 1):
        raise ChildProcessError("the worker ended before it had imported everything")
    os.close(from_worker)
    if settings["packed"]:
        _keep_image(settings["sent"])
    else:
        libraries, directories = settings["libraries"], settings["directories"]
        if libraries is None:
            libraries, directories = mounts.mapped(child)
        _forget_image(libraries)
        mounts.prepare_root(libraries, directories)
    os.write(ports[1], BOOTED)
    letter = worker.receive(ports[0])
    _become_a_host(letter, packed=settings["packed"])
    if letter["parcel"]:
        _open_parcel(ports[0], letter["parcel"])
    for port in ports:
        os.close(port)
    worker.send(letter, to_worker)
    _announce(child, _stay_for(child))
    _libc.reboot(ctypes.c_int(_RESTART))


def _stay_for(worker_pid: int) -> int:
    """Reap orphans, as an init does, until the worker ends; and wake up now and then.

    Returns the worker's wait status.

    QEMU's TCG fits the table of a processor's pages to their number only when the processor turns
    to another process (`tlb_mmu_resize_locked`, QEMU 4.0 to 10). If only the worker ran, the table
    would keep its initial 256 pages, and the worker would lose a sixth of its time to misses.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    pause = _FIRST_PAUSE
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == worker_pid:
            return status
        if not ended:
            signal.sigtimedwait({signal.SIGCHLD}, pause)
            pause = min(pause * 1.25, _LONGEST_PAUSE)


def _announce(worker_pid: int, status: int) -> None:
    """Print on the console how the worker ended; `worker_end` in machines/console.py reads it."""
    if os.WIFSIGNALED(status):
        how = f"by signal {os.WTERMSIG(status)}"
    else:
        how = f"with status {os.WEXITSTATUS(status)}"
    _print_on_console(f"worker {worker_pid} ended {how}")


def _print_on_console(text: str) -> None:
    """Print a line on the console.

    The kernel prints a message of level 0 at any loglevel, and never within another message.
    """
    with contextlib.suppress(OSError):  # a kernel without CONFIG_PRINTK
        Path("/dev/kmsg").write_text(f"<0>bpflink: {text}\n")


def _be_the_same_python(executable: str, environment: dict[str, str]) -> None:
    """Start EXECUTABLE if the kernel started a link to it, or if ENVIRONMENT is not set.

    Python reads the variables of ENVIRONMENT only at its start. By a link, it does not find the
    virtual environment of EXECUTABLE.
    """
    by_link = sys.executable == str(IMAGE / "python")
    if by_link or any(os.environ.get(name) != value for name, value in environment.items()):
        command = [executable, "-u", __file__]
        os.execve(executable, command, {**os.environ, **environment})  # noqa: S606


# Before it is saved.


def _set_up_kernel(shell: str) -> None:
    Path(_MODPROBE).write_text(_MODPROBE_SCRIPT.format(shell=shell))
    Path(_MODPROBE).chmod(0o755)
    # A kernel without modules has no such file.
    _set("/proc/sys/kernel/modprobe", _MODPROBE)
    # Children inherit the name of this process, which would be that of the script.
    Path("/proc/self/comm").write_text(os.path.basename(sys.executable))
    # systemd sets this value; programs may raise RLIMIT_NOFILE up to it.
    _set("/proc/sys/fs/nr_open", "1048576")
    with contextlib.suppress(OSError):  # a kernel without CONFIG_INET
        _raise_loopback()


def _set(parameter: str, value: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(parameter).write_text(value)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16xh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _shows(kind: str, name: str) -> bool:
    """Whether a sign of `SIGNS` in kernels/drivers.py is there."""
    if kind == "mount":
        return os.path.ismount(name)
    if kind == "filesystem":
        return name in Path("/proc/filesystems").read_text().split()
    return os.path.isdir(name)


def _load(module: Path, finit_module: int) -> None:
    with module.open("rb") as file:
        if _libc.syscall(ctypes.c_long(finit_module), file.fileno(), b"", 0):
            code = ctypes.get_errno()
            if code != errno.EEXIST:
                raise OSError(code, f"{os.strerror(code)}: loading {module.name}")


# The host's end of each is QEMU's standard input, output, and a file.
_PORTS = (
    ("virtme.stdin", os.O_RDONLY),
    ("virtme.stdout", os.O_WRONLY),
    ("virtme.stderr", os.O_WRONLY),
)


def _port(name: str, mode: int) -> int:
    # A port's name appears some time after the port.
    for _ in range(500):
        for candidate in Path("/sys/class/virtio-ports").glob("*/name"):
            if candidate.read_text().strip() == name:
                return os.open(f"/dev/{candidate.parent.name}", mode | os.O_CLOEXEC)
        time.sleep(0.01)
    raise OSError(errno.ENODEV, f"there is no virtio port {name}")


def _forget_image(kept: list[str]) -> None:
    """Remove the image's files, which a save would hold, but for KEPT, which are mapped."""
    for top in Path("/").iterdir():
        if str(top) not in mounts.MOVED:
            _remove(top, kept)


def _keep_image(sent: list[str]) -> None:
    """Make the image's files the root, but for the directories SENT, which the host sends."""
    import zlib  # noqa: F401 (for `_open_parcel`)

    for directory in filter(os.path.exists, sent):
        _remove(Path(directory), [])
    _remove(IMAGE / "modules", [])
    mounts.prepare_root([], {})
    mounts.keep_image()


def _remove(path: Path, kept: list[str]) -> None:
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            _remove(entry, kept)
        with contextlib.suppress(OSError):  # something is kept in it
            path.rmdir()
    elif str(path) not in kept:
        path.unlink()


# After it was restored.


def _become_a_host(letter: Letter, *, packed: bool) -> None:
    time.clock_settime(time.CLOCK_REALTIME, letter["time"])
    _seed(bytes.fromhex(letter["seed"]))
    socket.sethostname(letter["hostname"])
    mounts.change_root(letter["visible"], letter["host"], packed=packed)
    if letter["writable"]:
        mounts.share(*letter["writable"])
    release = os.uname().release
    if letter["modules"]:
        mounts.show(letter["modules"], f"/lib/modules/{release}")
    if letter["config"]:
        # There libbpf looks for the values of variables that are extern __kconfig.
        mounts.show(letter["config"], f"/boot/config-{release}")
    _name_itself(letter["hostname"])


def _open_parcel(port: int, length: int) -> None:
    """Unpack the compressed archive of so many bytes that comes through a port."""
    import zlib

    source, sink = os.pipe()
    command = ["busybox", "cpio", "-idmu", "--quiet"]
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_CLOSE, sink)]
    child = os.posix_spawn("/bin/busybox", command, {}, file_actions=actions)
    os.close(source)
    unpacked = zlib.decompressobj()
    with open(sink, "wb") as archive:
        while length:
            received = os.read(port, min(length, _CHUNK))
            if not received:
                raise OSError(errno.EPIPE, "the host is gone")
            length -= len(received)
            archive.write(unpacked.decompress(received))
    _, status = os.waitpid(child, 0)
    if status:
        raise OSError(errno.EIO, "the files that the host has sent can't be written")


def _name_itself(host_name: str) -> None:
    """Have the guest's own host name resolved, as virtme-ng's init does."""
    # A host may have no such file.
    with contextlib.suppress(OSError), Path("/etc/hosts").open("a") as hosts:
        hosts.write(f"\n127.0.0.1 {host_name}\n::1 {host_name}\n")


def _seed(seed: bytes) -> None:
    """Reseed the kernel's random numbers: all guests restored from one save would have the same.

    Entropy that is only added does not reseed soon; neither does writing to /dev/urandom, nor
    virtio-rng.
    """
    device = os.open("/dev/urandom", os.O_WRONLY)
    fcntl.ioctl(device, _RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
    fcntl.ioctl(device, _RNDRESEEDCRNG)
    os.close(device)


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        if os.getpid() != 1:
            raise
        # On the console, which the host quotes.
        traceback.print_exc()
        _libc.reboot(ctypes.c_int(_RESTART))
