"""A cache that another user has written to: nothing of theirs is executed, and the run goes on."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.vm import kernels
from pytest_bpflink.vm.cache import cache_root
from tests.support.nobody import NOBODY, run_as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_bpflink.vm.kernels.stored import Stored

DAEMON = 1
KERNEL = "6.1"

PROGRAM = """
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

int value = VALUE;

SEC("cgroup_skb/egress")
int keep(struct __sk_buff *skb)
{
	return value & 1;
}
"""

TEST = """
from pytest_bpflink import Object

def test_value():
    with Object.open("it.bpf.c") as opened:
        assert opened.data["value"] == 7
"""


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
        self.cache.mkdir()
        # Root's kernels may be used by all.
        kernels.find(KERNEL)
        stored = next(each.path for each in kernels.Store().kernels() if _is_wanted(each))
        (self.cache / "kernels").mkdir()
        copy = ["cp", "-a", "--reflink=auto", str(stored), str(self.cache / "kernels")]
        subprocess.run(copy, check=True)
        if (cache_root() / "kvm.json").exists():
            shutil.copy(cache_root() / "kvm.json", self.cache)
        (directory / "it.bpf.c").write_text(PROGRAM.replace("VALUE", "7"))
        (directory / "test_it.py").write_text(TEST)
        for path in (directory, *directory.iterdir(), self.cache / "kernels"):
            os.chown(path, user, user, follow_symlinks=False)

    def pytest(self, *options: str, user: int | None = None) -> str:
        """Run the project's test as its user, or as another; return the output."""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_it.py"]
        environment = {
            "HOME": str(self.directory),
            "BPFLINK_CACHE": str(self.cache),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        if self.user if user is None else user:
            return run_as_nobody(command, cwd=self.directory, env=environment).stdout
        return subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
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


def _is_wanted(kernel: Stored) -> bool:
    return kernel.upstream.startswith(f"{KERNEL}.")


@pytest.fixture(params=["root", "nobody"])
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
    command = {"command": run.touch("command"), "consoles": []}
    run.plant("guests/machine-*.json", json.dumps(command).encode())
    (description,) = run.cache.glob("guests/*/save.json")
    described = json.loads(description.read_text()) | command | {"blueprint": command}
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
    planted = run.directory / "planted.bpf.o"
    compiled = ["clang", "-target", "bpf", "-O2", "-g", "-c", str(source), "-o", str(planted)]
    subprocess.run([*compiled, "-I", "/usr/include/x86_64-linux-gnu"], check=True)
    source.unlink()
    run.plant("objects/*/*/it.bpf.o", planted.read_bytes())
    (parts,) = run.cache.glob("objects/*/parts.json")
    digest = hashlib.sha256(planted.read_bytes()).hexdigest()[:32]
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
