"""What is done again and again: each trial yields an `Outcome` for each time that it did it.

A trial goes on until its caller closes it, or until there is nothing more to do.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_bpflink.vm.cache import cache_root
from pytest_bpflink.vm.kernels import find

from .stage import SELFTESTS, faults, green

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator, Iterator

    from .stage import Stage

LINKS = (SELFTESTS / "test_link_pinning.py", SELFTESTS / "test_cgroup_link.py")

ITEMS = 10_000
_ITEM = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_number(number):
    pass
"""

# The controller keeps a report of each item; its ids and times are some 5 kB.
_ITEM_BYTES = 12_000

# Where there is room for no save, each session boots a plain guest, which compiles what it tests.
_PLAIN_SECONDS = 900.0

# A damaged kernel may boot, and then hang; a session says so before this.
_DAMAGE_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """What was done once, and what was wrong then."""

    what: str
    problems: tuple[str, ...] = ()


def kills(stage: Stage, chance: random.Random) -> Generator[Outcome]:
    """End a session by a signal at any moment; look at what is left, then run another.

    An interrupted session keeps the saves of its guests, and removes everything else itself.
    """
    kernels = ("--kernel", f"native,{','.join(stage.kernels)}")
    whole = stage.run(*LINKS, *kernels)
    yield Outcome("a whole session", tuple(green(whole)))
    while True:
        number = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        moment = chance.uniform(0.0, whole.seconds)
        guest = chance.choice(("auto", "auto", "cold"))
        saves = _saves(cache_root())
        session = stage.start(*LINKS, *kernels, "--kernel-guest", guest)
        time.sleep(moment)
        session.signal(number)
        run = session.wait()
        problems = faults(run)
        if number == signal.SIGINT and moment > 1:
            problems += stage.left_unswept()
        else:
            problems += stage.left()
        if lost := saves - _saves(cache_root()):
            problems.append(f"a save was thrown away: {', '.join(sorted(lost))}")
        problems += green(stage.run(*LINKS, *kernels))
        problems += stage.left_unswept()
        yield Outcome(f"{number.name} after {moment:.2f} s, guests {guest}", tuple(problems))


def parallel(stage: Stage, chance: random.Random) -> Generator[Outcome]:
    """Run three sessions at a time, each on kernels of its own choice."""
    while True:
        sessions = []
        for _ in range(3):
            specs = chance.sample(["native", *stage.kernels], 2)
            options = chance.choice(([], [], ["--kernel-fresh"], ["--kernel-guest", "cold"]))
            sessions.append(stage.start(*LINKS, "--kernel", ",".join(specs), *options))
        problems = [problem for session in sessions for problem in green(session.wait())]
        yield Outcome("three sessions", (*problems, *stage.left_unswept()))


def items(stage: Stage, _chance: random.Random) -> Generator[Outcome]:
    """Run 10,000 tests in a guest: none is lost; memory and descriptors stay within bounds."""
    directory = stage.directory / "items"
    directory.mkdir()
    peaks = []
    for count in (100, ITEMS):
        file = directory / f"test_{count}.py"
        file.write_text(_ITEM.format(count=count))
        session = stage.start(file, "--kernel", stage.kernels[0], "-q")
        peak = _Peak(session.process.pid)
        while session.process.poll() is None:
            peak.look()
            time.sleep(0.1)
        problems = green(session.wait())
        if f"\n{count} passed" not in (run := session.wait()).output:
            problems.append(f"{count} tests should have passed: {run.last_line}")
        peaks.append(peak)
        if count == ITEMS:
            each = (peak.memory - peaks[0].memory) / ITEMS
            if each > _ITEM_BYTES:
                problems.append(f"{each:.0f} bytes an item, more than {_ITEM_BYTES}")
            if peak.descriptors > peaks[0].descriptors + 2:
                problems.append(f"{peak.descriptors} descriptors, {peaks[0].descriptors} before")
            what = f"{count} items: {each / 1000:.1f} kB an item, {peak.descriptors} descriptors"
        else:
            what = f"{count} items: {peak.descriptors} descriptors"
        yield Outcome(what, (*problems, *stage.left_unswept()))


def full_disk(stage: Stage, chance: random.Random) -> Generator[Outcome]:
    """Give the cache or the temporary directory little room: tests pass, or a sentence says why."""
    tree = _tree(stage.kernels[0])
    while True:
        size, name = chance.choice((1, 8, 30, 60, 120)), chance.choice(("BPFLINK_CACHE", "TMPDIR"))
        spec = str(tree) if name == "BPFLINK_CACHE" else stage.kernels[0]
        with _tmpfs(stage.directory / "disk", mib=size) as disk:
            run = stage.run(
                *LINKS, "--kernel", spec, variables={name: str(disk)}, seconds=_PLAIN_SECONDS
            )
            problems = faults(run)
            if run.status and "No space left on device" not in run.output:
                problems.append(f"exit status {run.status}, and not for want of room")
            if run.status not in {0, 1}:
                problems.append(f"exit status {run.status}: {run.last_line}")
        problems += stage.left()
        yield Outcome(f"{name} of {size} MiB: exit status {run.status}", tuple(problems))


def damage(stage: Stage, chance: random.Random) -> Generator[Outcome]:
    """Damage a file of the cache: a session passes or says what is wrong, and a later one passes.

    Files of kernels are not made anew: nobody can tell that a module was damaged.
    """
    cache = stage.directory / "cache"
    variables = {"BPFLINK_CACHE": str(cache)}
    tree = _tree(stage.kernels[0])
    shutil.copytree(tree, cache / "kernels" / tree.name, symlinks=True)
    arguments = (*LINKS, "--kernel", stage.kernels[0])
    yield Outcome("a first session", tuple(green(stage.run(*arguments, variables=variables))))
    while True:
        parts: dict[str, list[Path]] = {}
        for path in sorted(cache.rglob("*")):
            part = path.relative_to(cache).parts[0]
            # A kernel has thousands of modules; nothing here loads most of them.
            if path.is_file() and not path.is_symlink() and path.suffix not in {".ko", ".xz"}:
                parts.setdefault(part, []).append(path)
        file = chance.choice(parts[chance.choice([*parts])])
        name, harm = file.relative_to(cache), chance.choice(_HARMS)
        before = file.read_bytes()
        harm(file, chance)
        first = stage.run(*arguments, variables=variables, seconds=_DAMAGE_SECONDS)
        problems = faults(first)
        if cache / "kernels" in file.parents:
            if first.status not in {0, 1, 4}:
                problems.append(f"exit status {first.status}: {first.last_line}")
            _replace(file, before)
        else:
            problems += green(first)
        problems += green(stage.run(*arguments, variables=variables))
        yield Outcome(f"{harm.__name__}: {name}", (*problems, *stage.left_unswept()))


def emptied(file: Path, _chance: random.Random) -> None:
    """Leave nothing in a file."""
    file.write_bytes(b"")


def cut(file: Path, chance: random.Random) -> None:
    """Take the end of a file away."""
    os.truncate(file, chance.randrange(file.stat().st_size + 1))


def changed(file: Path, chance: random.Random) -> None:
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        _replace(file, bytes(content))


def garbled(file: Path, chance: random.Random) -> None:
    """Write a few bytes over the beginning of a file."""
    _replace(file, chance.randbytes(64) + file.read_bytes()[64:])


def gone(file: Path, _chance: random.Random) -> None:
    """Remove a file."""
    file.unlink()


_HARMS: tuple[Callable[[Path, random.Random], None], ...] = (emptied, cut, changed, garbled, gone)


def hostile_specs(stage: Stage, _chance: random.Random) -> Generator[Outcome]:
    """Ask for kernels that can't be: each is refused with a sentence, before any test runs."""
    for spec in _SPECS:
        run = stage.run(LINKS[0], "--kernel", spec)
        problems = faults(run)
        if run.status != 4:  # pytest's usage error
            problems.append(f"exit status {run.status}: {run.last_line}")
        yield Outcome(f"--kernel {spec!r}", (*problems, *stage.left_unswept()))


# A SPEC that begins with "," is an empty one and another.
_SPECS = (
    *("9.9", "6", "6.", ".1", "-1", "6.12 --help", "6.12;id", "$(id)", "`id`", "{}", "%s", "é"),
    *("/", "../../etc", "/dev/null", "/proc/self", "/etc/passwd", "~nobody-here/vmlinuz", "a,,b"),
    *("native6.1", "6.1:6.12", "\x1b[31m6.1", "6.1\n6.12", "[", "[z-a]", "stable=", "6.12="),
    *("a" * 5000, "/" + "a" * 5000, "6." + "1" * 5000, "ssh=-oProxyCommand=id"),
)


def hostile_texts(stage: Stage, chance: random.Random) -> Generator[Outcome]:
    """Fail tests whose ids and messages are any text: each is in the JSON report, none is lost."""
    directory = stage.directory / "texts"
    directory.mkdir()
    while True:
        texts = [_any_text(chance) for _ in range(_TEXTS)]
        file = directory / "test_texts.py"
        file.write_text(_TEXT_TEST.format(texts=ascii(texts)))
        reports = [directory / f"report.{ending}" for ending in ("html", "md", "json")]
        options = [f"--kernel-report={report}" for report in reports]
        run = stage.run(file, "--kernel", f"native,{stage.kernels[0]}", "-q", *options)
        problems = faults(run)
        if run.status != 1:
            problems.append(f"exit status {run.status}: {run.last_line}")
        for report in reports:
            if not report.is_file():
                problems.append(f"{report.name} was not written")
        if reports[-1].is_file():
            kernels = json.loads(reports[-1].read_bytes())["kernels"]
            failed = [kernel["counts"]["failed"] for kernel in kernels]
            if failed != [_TEXTS, _TEXTS]:
                problems.append(
                    f"{failed} failures are in the report, not {_TEXTS} for each kernel"
                )
        yield Outcome(f"{_TEXTS} texts", (*problems, *stage.left_unswept()))


_TEXTS = 40

_TEXT_TEST = """
import warnings
import pytest

@pytest.mark.parametrize("text", {texts})
def test_text(text, record_property):
    print(text.encode("utf-8", "replace").decode())
    record_property(text, text)
    warnings.warn(text)
    raise AssertionError(text)
"""

_MARKUP = ("</script>", "<!--", "]]>", "|", "`", "\x1b[31m", "\x1b]0;", "${x}", "&amp;", "\0", "\r")


def _any_text(chance: random.Random) -> str:
    """Return a text of any characters, surrogates among them, and of markup."""
    points = (chance.randrange(chance.choice((128, 0xE000, 0x110000))) for _ in range(10))
    pieces = [*map(chr, points), *chance.choices(_MARKUP, k=3)]
    chance.shuffle(pieces)
    return "".join(pieces)


def environments(stage: Stage, chance: random.Random) -> Generator[Outcome]:
    """Run sessions in environments that few people have, in any order."""
    directory = stage.directory / "odd"
    directory.mkdir()
    (directory / "a b, 'c'").mkdir()
    odd: list[tuple[dict[str, str], str]] = [(each, "") for each in _environments(directory)]
    odd += [({}, name) for name in _LIMITS]
    chance.shuffle(odd)
    for variables, name in odd:
        arguments = (*LINKS, "--kernel", f"native,{stage.kernels[0]}")
        run = stage.run(*arguments, limit=_LIMITS.get(name), variables=variables)
        what = name or " ".join(f"{name}={value}" for name, value in variables.items())
        yield Outcome(what, (*green(run), *stage.left_unswept()))


def _environments(directory: Path) -> Iterator[dict[str, str]]:
    yield from ({"PYTHONHASHSEED": seed} for seed in ("0", "1", "random"))
    flags = "SAFEPATH DONTWRITEBYTECODE UNBUFFERED NOUSERSITE VERBOSE FAULTHANDLER UTF8 DEVMODE"
    yield from ({f"PYTHON{flag}": "1"} for flag in flags.split())
    yield {"PYTHONIOENCODING": "ascii"}
    yield {"PYTHONUTF8": "0", "LC_ALL": "C"}
    yield {"PYTHONPATH": f":/nowhere:{directory}/a b, 'c':."}
    yield {"PYTHONPYCACHEPREFIX": f"{directory}/pyc"}
    yield {"PYTHONMALLOC": "debug"}
    yield {"PYTHONTRACEMALLOC": "1"}
    yield {"LC_ALL": "xx_YY.UTF-8", "LANG": "xx"}
    yield {"TZ": "Pacific/Kiritimati"}
    yield {"HOME": "/nowhere", "BPFLINK_CACHE": str(cache_root())}
    yield {"TMPDIR": f"{directory}/a b, 'c'"}
    yield {"TERM": "dumb", "NO_COLOR": "1"}
    yield {"FORCE_COLOR": "1", "COLUMNS": "1"}
    yield {"COLUMNS": "100000"}
    yield {"CI": "true"}
    yield {"PYTEST_ADDOPTS": "-q -ra --tb=short"}
    yield {"BASH_FUNC_x%%": "() { :; }", "A": "\x01\x7f\n\t ' \" \\ $x `id`"}
    yield {"LONG": "x" * 100_000}


def _of_files(count: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def _closed(descriptor: int) -> Callable[[], None]:
    return lambda: os.close(descriptor)


_LIMITS: dict[str, Callable[[], None]] = {
    "at most 128 descriptors": _of_files(128),
    "umask 077": lambda: void(os.umask(0o077)),
    "umask 000": lambda: void(os.umask(0)),
    "nice 19": lambda: void(os.nice(19)),
    "no standard input": _closed(0),
    "no core files": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "SIGPIPE ignored": lambda: void(signal.signal(signal.SIGPIPE, signal.SIG_IGN)),
    "SIGCHLD ignored": lambda: void(signal.signal(signal.SIGCHLD, signal.SIG_IGN)),
}


def void(_result: object) -> None:
    """Forget what a function returned."""


class _Peak:
    """The most memory, in bytes, and descriptors that a process was seen to have."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self.memory = self.descriptors = 0

    def look(self) -> None:
        try:
            pages = int((self._proc / "statm").read_text().split()[1])
            count = len(list((self._proc / "fd").iterdir()))
        except OSError:  # it has ended
            return
        self.memory = max(self.memory, pages * resource.getpagesize())
        self.descriptors = max(self.descriptors, count)


def _tree(spec: str) -> Path:
    """Return the directory of a kernel in the store."""
    store = cache_root() / "kernels"
    return store / find(spec).image.relative_to(store).parts[0]


def _saves(cache: Path) -> set[str]:
    return {path.parent.name for path in (cache / "guests").glob("[0-9a-f]*/save.json")}


@contextmanager
def _tmpfs(path: Path, *, mib: int) -> Iterator[Path]:
    path.mkdir(exist_ok=True)
    options = f"size={mib}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "soak", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def _replace(file: Path, content: bytes) -> None:
    """Give a file other content, also one whose bytes a guest may still have mapped."""
    mode = file.stat().st_mode if file.exists() else 0o600
    file.unlink(missing_ok=True)
    file.write_bytes(content)
    file.chmod(mode)
