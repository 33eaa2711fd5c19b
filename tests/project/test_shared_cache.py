"""A cache that another user has written to: nothing of theirs is executed, and the run goes on."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.guest_project import KERNEL, PROGRAM, command, make_project
from tests.support.long import long
from tests.support.nobody import NOBODY, run_as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

DAEMON = 1


class Run:
    """A project and a cache, both of one user, and an attacker who is another user."""

    def __init__(self, directory: Path, *, user: int, attacker: int) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self.user = user
        self.attacker = attacker
        #: Each planted command makes a file in it.
        self.executed = directory / "executed"
        self.executed.mkdir()
        self.executed.chmod(0o777)
        # Root's kernels may be used by all.
        self.environment = make_project(directory)
        for path in (directory, *directory.iterdir(), self.cache / "kernels"):
            os.chown(path, user, user, follow_symlinks=False)

    def pytest(self, *options: str, user: int | None = None) -> str:
        """Run the project's test as its user, or as another; return the output."""
        if self.user if user is None else user:
            return run_as_nobody(command(*options), cwd=self.directory, env=self.environment).stdout
        return subprocess.run(
            command(*options),
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        ).stdout

    def plant(self, pattern: str, content: bytes) -> list[Path]:
        """Let the attacker write the files in the cache that PATTERN matches, and return them."""
        files = list(self.cache.glob(pattern))
        assert files, pattern
        for file in files:
            file.write_bytes(content)
            os.chown(file, self.attacker, -1)
        return files

    def touch(self, name: str) -> list[str]:
        """Return a command that shows that it was executed."""
        return ["touch", str(self.executed / name)]


@pytest.fixture(params=["root", pytest.param("nobody", marks=long)])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Make a project whose test has passed in a guest, and so has filled the cache."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    if request.param == "nobody":
        tried = run_as_nobody([sys.executable, "-c", "import pytest, pytest_bpflink"])
        if tried.returncode:
            pytest.skip(f"another user can't run {sys.executable} here: {tried.stdout.strip()}")
    users = {"root": (0, NOBODY), "nobody": (NOBODY, DAEMON)}
    user, attacker = users[request.param]
    # Not below root's temporary directories, which others can't enter.
    with tempfile.TemporaryDirectory(prefix="bpflink-shared-") as directory:
        made = Run(Path(directory), user=user, attacker=attacker)
        said = made.pytest("--kernel", KERNEL)
        assert "1 passed" in said, said
        assert "is not used" not in said, said
        yield made


def plant_everywhere(run: Run) -> None:
    """Plant a command, code that fails the test, or nonsense in each kind of file."""
    planted = {"command": run.touch("command"), "consoles": []}
    run.plant("guests/machine-*.json", json.dumps(planted).encode())
    (description,) = run.cache.glob("guests/*/save.json")
    described = json.loads(description.read_text()) | planted | {"blueprint": planted}
    run.plant("guests/*/save.json", json.dumps(described).encode())
    run.plant("guests/*/state", b"planted")
    run.plant("guests/*/memory", b"planted")
    run.plant("guests/contents.json", b'{"planted": [[], "planted"]}')
    (listed,) = run.cache.glob("guests/python-*.json")
    known = json.loads(listed.read_text()) | {"path": [str(run.executed)]}
    run.plant("guests/python-*.json", json.dumps(known).encode())
    run.plant("guests/python-*.zip", b"planted")

    source = run.directory / "planted.bpf.c"
    source.write_text(PROGRAM.replace("VALUE", "666").replace('"vmlinux.h"', "<linux/bpf.h>"))
    built = run.directory / "planted.bpf.o"
    compiled = ["clang", "-target", "bpf", "-O2", "-g", "-c", str(source), "-o", str(built)]
    subprocess.run([*compiled, "-I", "/usr/include/x86_64-linux-gnu"], check=True)
    source.unlink()
    run.plant("objects/*/*/it.bpf.o", built.read_bytes())
    (parts,) = run.cache.glob("objects/*/parts.json")
    digest = hashlib.sha256(built.read_bytes()).hexdigest()[:32]
    kept = json.loads(parts.read_text()) | {"object": digest}
    run.plant("objects/*/parts.json", json.dumps(kept).encode())
    run.plant("vmlinux/*/vmlinux.h", b"#error planted\n")
    run.plant("clang/*", b"planted")

    (module,) = run.cache.glob("pycache/**/test_it*.pyc")
    code = compile(f"open({str(run.executed / 'module')!r}, 'w'); 1 / 0", "planted", "exec")
    run.plant("pycache/**/test_it*.pyc", module.read_bytes()[:16] + marshal.dumps(code))


def test_nothing_of_another_user_s_is_executed(run: Run) -> None:
    plant_everywhere(run)

    said = run.pytest("--kernel", KERNEL)

    assert "1 passed" in said, said
    assert list(run.executed.iterdir()) == []
    refused = {line.split(" in the cache is not used, since ")[0] for line in said.splitlines()}
    for part in ("guests", "objects", "vmlinux", "pycache"):
        assert any(f"{run.cache}/{part}" in line for line in refused), (part, said)


@pytest.mark.parametrize("run", ["nobody"], indirect=True)
def test_root_uses_nothing_of_a_user_s_cache(run: Run) -> None:
    """As with sudo."""
    plant_everywhere(run)
    for file in run.cache.rglob("*"):
        os.chown(file, run.user, -1, follow_symlinks=False)

    said = run.pytest(user=0)

    assert "1 passed" in said, said
    assert f"{run.directory} belongs to nobody" in said, said
    assert list(run.executed.iterdir()) == []
