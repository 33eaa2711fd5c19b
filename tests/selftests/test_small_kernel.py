"""Selftests on a kernel with everything built in, and the tool that builds it."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest

from machines import kernel_build
from machines.kernel_build import BuildError, Recipe, build, main
from machines.stage import EACH_TYPE, LIFE, SessionError, require_reasons
from tests.support import ROOT
from tests.support.sessions import run_session
from tests.support.stored_kernels import CACHE

if TYPE_CHECKING:
    from pathlib import Path

SELFTESTS = ROOT / "selftests"


@pytest.fixture
def small_kernel() -> Path:
    """The kernel that a session of `make test-machines` left in the cache."""
    found = kernel_build.newest(Recipe())
    if found is None:
        pytest.skip("no small kernel was built: make test-machines ONLY=small-kernel")
    return found


def test_module_that_is_built_in(tmp_path: Path, small_kernel: Path) -> None:
    """A test that unloads a module is skipped, with the reason, and the others run."""
    windows = SELFTESTS / "conformance/test_conformance_windows.py"
    pinning = SELFTESTS / "test_link_pinning.py"
    chosen = ("-k", "module_unloaded or pin", "-rs", "-p", "no:cacheprovider")
    kernel = ("--kernel", str(small_kernel))
    done = run_session(tmp_path, windows, pinning, *chosen, *kernel, BPFLINK_CACHE=str(CACHE))

    found = {re.sub(r"^SKIPPED (\[\d+\]) \S+ ", r"\1 ", line) for line in done.outlines}
    release = next(small_kernel.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    reason = f"[3] dummy is no module of this kernel ({release}): it is built in"
    assert reason in found, "\n".join(done.outlines)
    # An older libbpf lacks some link types.
    assert re.search(r"= \d+ passed, \d+ skipped in", done.outlines[-1])


@pytest.mark.parametrize(
    "options",
    [
        ("DEBUG_INFO_BTF",),
        ("BPF_JIT", "BPF_LSM"),
        ("BPF_EVENTS", "BPF_LSM", "KPROBES", "KPROBE_EVENTS", "UPROBE_EVENTS"),
        ("BPF_STREAM_PARSER", "CGROUP_BPF"),
    ],
    ids=lambda options: options[0],
)
def test_kernel_without_options(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Without options nothing fails, and each skip names one of them, or the libbpf it needs."""
    found = kernel_build.newest(Recipe(without=options))
    if found is None:
        named = " ".join(f"--without {option}" for option in options)
        pytest.skip(f"no such kernel was built: tools/small-kernel {named}")
    chosen = ("-rs", "-p", "no:cacheprovider", "--kernel", str(found))
    done = run_session(tmp_path, *LIFE, EACH_TYPE, *chosen, BPFLINK_CACHE=str(CACHE))

    assert re.search(r"= \d+ passed, \d+ skipped in", done.outlines[-1]), done.outlines[-1]
    explained = re.compile(rf"CONFIG_({'|'.join(options)})\b|needs libbpf")
    skipped = [line for line in done.outlines if line.startswith("SKIPPED [")]
    assert [line for line in skipped if not explained.search(line)] == []
    assert any("CONFIG_" in line for line in skipped)


def test_missing_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name not in {"pahole", "bc"})
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "error: to build a kernel, install first: apt-get install bc dwarves\n"
    )


def test_missing_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(kernel_build, "_HEADERS", {"no/such/header.h": "libno-dev"})
    with pytest.raises(BuildError, match="install first: apt-get install libno-dev"):
        build(Recipe())


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_build, "_NEEDED_BYTES", 1 << 60)
    with pytest.raises(BuildError) as refused:
        kernel_build._require_space(tmp_path / "not/yet")
    assert re.fullmatch(
        rf"a build takes 1073741824 GiB, and \d+ MiB are free in {tmp_path}: BPFLINK_CACHE names"
        " another place, --tree DIR one for sources and objects",
        str(refused.value),
    )


def test_make_fails(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text('all:\n\t@echo "  CC      a.o"\n\t@echo no such; false\n')
    with pytest.raises(BuildError, match=r"(?s)^make all failed:\n.*no such\n.*Error 1"):
        kernel_build._make(tmp_path, tmp_path / "log", "all")


def test_recipe_leaves_options_out() -> None:
    whole, less = Recipe(), Recipe(without=("BPF_JIT",))
    assert whole.wanted()["CONFIG_BPF_JIT"] == "y"
    assert "CONFIG_BPF_JIT" not in less.wanted()
    assert less.text() == f"{whole.text()}CONFIG_BPF_JIT=n\n"
    assert "CONFIG_SERIAL_AMBA_PL011" not in whole.wanted()


def test_session_takes_no_other_reason() -> None:
    """A row that the session's kernel lacks fails it; one that libbpf lacks does not."""
    skipped = "SKIPPED [1] test_holding.py:42: "
    libbpf = f"{skipped}fentry_multi: needs libbpf 1.8 or later, this is libbpf 1.7"
    kernel = f"{skipped}lsm: this kernel (6.12.1) is built without CONFIG_BPF_LSM"
    require_reasons(f"{libbpf}\n1 passed, 1 skipped in 1 s", "needs libbpf")
    with pytest.raises(SessionError, match=r"than 'needs libbpf': SKIPPED .*CONFIG_BPF_LSM"):
        require_reasons(f"{libbpf}\n{kernel}\n1 passed, 2 skipped in 1 s", "needs libbpf")
