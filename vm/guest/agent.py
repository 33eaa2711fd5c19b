"""PID 1 of a guest of ours: boots to the point where it is saved, and makes it a host's likeness.

Runs in the guest's own image, on the host's Python. It loads modules, imports what `preload` says,
and waits for the host's letter; by then it may have been saved and restored. Then it sets what
each guest has of its own, makes the host's root its own, and forks the worker. Standard library
only, and no program is run: under emulation each costs tenths of seconds.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import fcntl
import gc
import importlib
import json
import locale
import os
import random
import resource
import site
import socket
import struct
import sys
import time
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_bpflink.vm.guest import mounts, preload
else:
    # Beside it in the image.
    import mounts
    import preload

Letter = dict[str, Any]
Compiled = dict[tuple[str, str], types.CodeType]

IMAGE = Path("/bpflink")

# What the host waits for: ready to be saved, and ready for execnet.
BOOTED = b"bpflink: guest booted\n"
READY = b"bpflink: guest ready\n"

# The length of the letter, before the letter.
LENGTH = struct.Struct("!Q")

_MODPROBE = "/run/modprobe"
# Each BPF FS mount asks for bpf_preload, which starts a user-mode helper: refuse it at once.
_MODPROBE_SCRIPT = """#!/bin/sh
case "$*" in *bpf_preload*) exit 1 ;; esac
exec /sbin/modprobe "$@"
"""

# linux/random.h, linux/sockios.h, linux/if.h, linux/reboot.h
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_POWER_OFF = 0x4321FEDC
_SYS_FINIT_MODULE = {"x86_64": 313, "aarch64": 273}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Be PID 1; return in the worker, whose Python then ends as any other."""
    # Nothing that is imported is to be thrown away.
    gc.disable()
    with Path("/dev/console").open("wb", buffering=0) as console:
        for descriptor in range(3):
            os.dup2(console.fileno(), descriptor)
    settings = json.loads((IMAGE / "settings.json").read_text())
    _be_the_same_python(settings["python"])
    own_path = sys.path[1:]
    mounts.mount_own()
    _set_up_kernel()
    for module in settings["modules"]:
        _load(IMAGE / "modules" / module)
    ports = [_port(name, mode) for name, mode in _PORTS]
    sys.path[:] = [*settings["path"], *own_path]
    preload.preload()
    plugin = preload.preload_plugin()
    compiled = preload.compile_what_is_sent()
    del sys.modules["preload"], sys.modules["mounts"]
    sys.path[:] = own_path
    _forget_image(settings["libraries"])
    mounts.prepare_root()
    gc.collect()
    gc.freeze()
    gc.enable()
    os.write(ports[1], BOOTED)
    letter = json.loads(_read(ports[0], *LENGTH.unpack(_read(ports[0], LENGTH.size))))
    if letter["plugin"] != settings["plugin"]:
        # Edited since, or not the one that the host runs.
        for name in plugin:
            sys.modules.pop(name, None)
    _become_a_host(letter, settings["libraries"])
    worker = os.fork()
    if not worker:
        _start_worker(letter, ports, compiled)
        return
    for port in ports:
        os.close(port)
    # An init adopts the orphans of its workers, and buries them.
    while os.wait()[0] != worker:
        pass
    _libc.reboot(ctypes.c_int(_POWER_OFF))


def _be_the_same_python(environment: dict[str, str]) -> None:
    """Start again if the environment has what Python reads only when it starts."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        command = [sys.executable, "-u", __file__]
        os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606


# Before it is saved.


def _set_up_kernel() -> None:
    Path(_MODPROBE).write_text(_MODPROBE_SCRIPT)
    Path(_MODPROBE).chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(_MODPROBE)
    # Its children are not to be called after this script.
    Path("/proc/self/comm").write_text(os.path.basename(sys.executable))
    # As systemd has it; programs raise their limit up to it.
    Path("/proc/sys/fs/nr_open").write_text("1048576")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16xh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _load(module: Path) -> None:
    with module.open("rb") as file:
        number = ctypes.c_long(_SYS_FINIT_MODULE[os.uname().machine])
        if _libc.syscall(number, file.fileno(), b"", 0):
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
    # Its driver tells a port's name some time after the port.
    for _ in range(500):
        for candidate in Path("/sys/class/virtio-ports").glob("*/name"):
            if candidate.read_text().strip() == name:
                return os.open(f"/dev/{candidate.parent.name}", mode | os.O_CLOEXEC)
        time.sleep(0.01)
    raise OSError(errno.ENODEV, f"there is no virtio port {name}")


def _forget_image(kept: list[str]) -> None:
    """Remove the image's files but for these, which are mapped: they would only be saved."""
    for top in Path("/").iterdir():
        if str(top) not in mounts.MOVED:
            _remove(top, kept)


def _remove(path: Path, kept: list[str]) -> None:
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            _remove(entry, kept)
        with contextlib.suppress(OSError):  # something is kept in it
            path.rmdir()
    elif str(path) not in kept:
        path.unlink()


def _read(descriptor: int, length: int) -> bytes:
    """Read from a port: never more than LENGTH, for what follows is execnet's."""
    data = b""
    while len(data) < length:
        data += os.read(descriptor, length - len(data))
    return data


# After it was restored.


def _become_a_host(letter: Letter, libraries: list[str]) -> None:
    time.clock_settime(time.CLOCK_REALTIME, letter["time"])
    _seed(bytes.fromhex(letter["seed"]))
    socket.sethostname(letter["hostname"])
    mounts.change_root(letter["visible"], libraries)
    if letter["writable"]:
        mounts.share(letter["writable"])
    if letter["modules"]:
        mounts.show_modules(letter["modules"])
    os.environ.clear()
    os.environ.update(letter["environment"])
    if letter["packages"]:
        time.tzset()
        _find_packages_again(letter["environment"].get("PYTHONPATH", ""))
    random.seed()


def _seed(seed: bytes) -> None:
    """Make the kernel's randomness this guest's own; all restored from one save had the same.

    Adding entropy alone reseeds nothing soon; writing to /dev/urandom, and virtio-rng, did not help
    either.
    """
    with Path("/dev/urandom").open("wb", buffering=0) as device:
        pool = struct.pack("ii", len(seed) * 8, len(seed)) + seed
        fcntl.ioctl(device, _RNDADDENTROPY, pool)
        fcntl.ioctl(device, _RNDRESEEDCRNG)


def _find_packages_again(python_path: str) -> None:
    """Look for packages in the host's root: .pth files, user's packages, PYTHONPATH."""
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX") or None
    site.ENABLE_USER_SITE = site.USER_SITE = site.USER_BASE = None
    before = [path for path in python_path.split(os.pathsep) if path]
    sys.path[:] = [*before, *sys.path]
    site.main()
    # What `python -c` has.
    sys.path.insert(0, "")


def _start_worker(letter: Letter, ports: list[int], compiled: Compiled) -> None:
    os.setsid()
    with contextlib.suppress(OSError):
        os.chdir(letter["cwd"])
    os.umask(letter["umask"])
    for name, limits in letter["limits"].items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), limits)
    # Before Linux 5.11 BPF maps and programs are charged against it.
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")
    os.write(ports[1], READY)
    for descriptor, port in enumerate(ports):
        os.dup2(port, descriptor)
    # What Python itself sets, and faulthandler looks for.
    streams: Any = sys
    streams.stdin = streams.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    streams.stdout = streams.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    streams.stderr = streams.__stderr__ = open(2, "w", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["-c"]
    sys.orig_argv = [sys.executable, "-u", "-c", letter["program"]]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    _run_what_is_sent(main.__dict__, compiled)


def _run_what_is_sent(namespace: dict[str, Any], compiled: Compiled) -> None:
    """Do what the program says, exec(eval(sys.stdin.readline())), without compiling what is known.

    Execnet's own module is sent with a few lines after it. By it, in its turn, xdist's is compiled.
    """

    def compile_(source: Any, name: Any, *arguments: Any, **options: Any) -> Any:
        return compiled.get((source, name)) or compile(source, name, *arguments, **options)

    source = ast.literal_eval(sys.stdin.readline())
    for (text, name), code in compiled.items():
        if name == "<string>" and source.startswith(text):
            namespace["compile"] = compile_
            exec(code, namespace)  # noqa: S102
            source = source.removeprefix(text)
    exec(compile(source, "<string>", "exec", dont_inherit=True), namespace)  # noqa: S102


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        if os.getpid() != 1:
            raise
        # On the console, which the host quotes.
        traceback.print_exc()
        _libc.reboot(ctypes.c_int(_POWER_OFF))
