"""Archives that users add: deb lines with their keyrings, and the kernels that come from them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from pytest_bpflink.matrix.guests.virtual_machines import GuestOptions, VirtualMachines
from pytest_bpflink.vm.kernels import KernelFetchError, KernelNotFound, Store, debian, expand, find
from pytest_bpflink.vm.kernels.sources import SourceError, configured, parse
from tests.support.command import bpflink
from tests.support.debian_archive import (
    Deb,
    Signer,
    contents,
    feed,
    kernel_deb,
    make_archive,
    needs_apt,
    ubuntu_debs,
)
from tests.support.kernel_trees import write
from tests.support.nobody import NOBODY, run_as_nobody
from tests.support.oci_layout import layer, layout

if TYPE_CHECKING:
    from collections.abc import Callable

needs_gpg = pytest.mark.skipif(
    not shutil.which("gpg"), reason="gpg is not on this host: apt-get install gnupg"
)

UBUNTU = "5.15.0-91-generic"


class Ubuntu(NamedTuple):
    """An archive with Ubuntu's layout, and the key that signs it."""

    root: Path
    signer: Signer

    def line(self, options: str = "", *, keyring: Path | None = None) -> str:
        """Return its deb line."""
        uri = f"file:{self.root}".replace(" ", "%20")
        return f"deb [{options} signed-by={keyring or self.signer.keyring}] {uri} jammy main"

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"file:{self.root}".replace(" ", "%20") + " jammy"


@pytest.fixture(scope="session")
def ubuntu(tmp_path_factory: pytest.TempPathFactory) -> Ubuntu:
    """Make an archive with Ubuntu's layout, whose path has a space and a comma."""
    directory = tmp_path_factory.mktemp("others")
    root = directory / "ubuntu, of old"
    debs = [
        *ubuntu_debs(UBUNTU, "5.15.0-91.101"),
        *ubuntu_debs("5.15.0-90-generic", "5.15.0-90.100"),
        *ubuntu_debs("5.15.0-1050-aws", "5.15.0-1050.55"),
        # Its modules are gone.
        *ubuntu_debs("5.19.0-50-generic", "5.19.0-50.50")[:2],
        *ubuntu_debs("5.4.0-9+old-generic", "5.4.0-9.1"),
        Deb("linux-image-generic", "5.15.0.91.88", {}, f"linux-image-{UBUNTU}"),
        # Debian has this one, too.
        *ubuntu_debs("6.12.99-1-generic", "6.12.99-1"),
    ]
    make_archive(root, debs, suite="jammy")
    signer = Signer(directory / "key, of ubuntu")
    signer.sign(root)
    return Ubuntu(root, signer)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that gives lines to all commands and sessions."""

    def give(*lines: str) -> Path:
        file = write(tmp_path / "sources of mine", "\n".join(["# mine", "", *lines, ""]))
        monkeypatch.setenv("BPFLINK_KERNEL_SOURCES", str(file))
        return file

    return give


# Kernels


@needs_apt
@needs_gpg
def test_kernel_that_the_distribution_lacks_comes_from_the_source(
    store: Store, ubuntu: Ubuntu, given: Callable[..., Path]
) -> None:
    given(ubuntu.line())

    kernel = find("5.15", store=store)

    assert (kernel.release, kernel.version) == (UBUNTU, "5.15.0")
    assert contents(store) == [f"{UBUNTU}_5.15.0-91.101"]
    assert kernel.modules
    modules = kernel.modules / "lib/modules" / UBUNTU
    assert (modules / "modules.dep").exists()
    assert (modules / "kernel/README").read_text() == "more of them"
    assert kernel.config["CONFIG_9P_FS"] == "m"
    # Only root may read the image in the package.
    assert kernel.image.stat().st_mode & 0o777 == 0o644


@needs_apt
@needs_gpg
def test_line_of_a_project_does_as_one_of_the_file(store: Store, ubuntu: Ubuntu) -> None:
    of_project = Store(store.root, added=[ubuntu.line()])
    assert find("5.15.0-90", store=of_project).release == "5.15.0-90-generic"


@needs_apt
@needs_gpg
def test_release_that_the_distribution_has_is_never_the_sources(
    store: Store, ubuntu: Ubuntu, given: Callable[..., Path]
) -> None:
    given(ubuntu.line())
    said: list[str] = []

    assert find("6.12", store=store, progress=said.append).version == "6.12.5"

    assert said.count("6.12: reading the lists of packages") == 1
    # A word, and a pattern, mean all kernels.
    assert find("oldest", store=store).release == "5.4.0-9+old-generic"
    assert expand("*", store=store) == ["5.4", "5.15", "6.1", "6.8", "6.12", "6.16", "7.2"]
    assert find("lts", store=store).version == "6.12.99"


@needs_apt
@needs_gpg
def test_distribution_without_a_mirror_leaves_the_source(
    store: Store, ubuntu: Ubuntu, given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_bpflink.vm.kernels.apt.host_sources", list)
    given(ubuntu.line())
    said: list[str] = []

    assert find("5.15", store=store, progress=said.append).version == "5.15.0"

    why = "knows no Debian mirror to fetch kernels from"
    (told,) = [line for line in said if why in line]
    assert told.startswith("5.15: this host's apt ")
    assert told.endswith("; it is looked for among the other kernels")
    with pytest.raises(KernelFetchError, match=rf"there is no kernel 5\.3 .* {why}"):
        find("5.3", store=store)


@needs_apt
@needs_gpg
def test_kernel_that_neither_has(store: Store, ubuntu: Ubuntu, given: Callable[..., Path]) -> None:
    given(ubuntu.line())
    with pytest.raises(KernelNotFound) as caught:
        find("5.19", store=store)
    assert str(caught.value).splitlines()[:2] == [
        "there is no kernel 5.19; there are:",
        "  5.4   5.4.0",
    ]


@needs_apt
@needs_gpg
def test_debian_as_it_was(
    store: Store, tmp_path: Path, given: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive of the past has expired, and is signed by a key that the host may have, too."""
    monkeypatch.delenv("APT_CONFIG")
    feed(monkeypatch, "file:/nowhere")
    arch = debian.architecture()
    root = tmp_path / "past"
    more = "Date: Wed, 01 Nov 2023 00:00:00 UTC\nValid-Until: Wed, 08 Nov 2023 00:00:00 UTC\n"
    make_archive(
        root,
        [
            kernel_deb(f"linux-image-6.6.9-{arch}", "6.6.9-1"),
            kernel_deb(f"linux-image-6.6.9-{arch}-unsigned", "6.6.9-1"),
            kernel_deb(f"linux-image-6.6.11-cloud-{arch}", "6.6.11-1"),
        ],
        suite="sid",
        more=more,
    )
    signer = Signer(tmp_path / "key")
    signer.sign(root)
    name = f"file:{root} sid"
    # "yes" is apt's default, but some hosts have switched these checks off.
    checks = "check-date=yes check-valid-until=yes"
    given(f"deb [{checks} signed-by={signer.keyring}] file:{root} sid main")
    with pytest.raises(KernelFetchError) as caught:
        find("6.6", store=store)
    assert re.search(
        f"{name}: its list of packages has expired; an archive of the past needs"
        r" check-valid-until=no in the brackets of its deb line \(Release file for .* is expired",
        str(caught.value),
    )
    given(f"deb [check-valid-until=no signed-by={signer.keyring}] file:{root} sid main")
    assert find("6.6", store=store).version == "6.6.9"


@needs_apt
@needs_gpg
def test_project_names_its_sources(
    pytester: pytest.Pytester, ubuntu: Ubuntu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its configuration, beside which the keyring may be."""
    nowhere = 'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "/dev/null";\n'
    monkeypatch.setenv("APT_CONFIG", str(write(tmp_path / "apt.conf", nowhere)))
    monkeypatch.setenv("BPFLINK_CACHE", str(tmp_path / "cache"))
    keyring = pytester.mkdir("keys") / "of ubuntu, old.gpg"
    shutil.copy(ubuntu.signer.keyring, keyring)
    line = ubuntu.line().replace(str(ubuntu.signer.keyring), "keys/of ubuntu, old.gpg")
    pytester.makeini(f"[pytest]\nbpflink_kernel_sources =\n    {line}\n")
    test = write(pytester.mkdir("below") / "test_it.py", "def test_it(): pass")
    monkeypatch.chdir(test.parent)

    result = pytester.runpytest_subprocess("--collect-only", "-q", "--kernel", "5.1*")

    result.stdout.fnmatch_lines(["*test_it.py::test_it[[]5.15[]]"])
    # A run asks the same archive.
    config = pytester.parseconfig("--rootdir", pytester.path, "-c", pytester.path / "tox.ini")
    place = VirtualMachines(GuestOptions.of(config), cwd=tmp_path, say=print)
    assert place.find("5.15", print).release == UBUNTU


@pytest.mark.parametrize("option", ["--collect-only", "--kernel-guest=cold"])
def test_project_with_a_line_that_is_wrong(pytester: pytest.Pytester, option: str) -> None:
    pytester.makeini("[pytest]\nbpflink_kernel_sources = deb http://a.example sid main\n")
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_subprocess(option, "--kernel", "6*")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    sentence = (
        "ERROR: http://a.example sid: its deb line names no keyring, so nothing can be verified:"
        " write deb [signed-by=KEYRING] URI SUITE COMPONENT..."
    )
    assert sentence in result.errlines
    # Where no kernel is asked for, nobody reads the line.
    assert pytester.runpytest_subprocess().ret == 0


@needs_apt
@needs_gpg
def test_user_without_root(ubuntu: Ubuntu) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    if run_as_nobody([sys.executable, "-c", "import pytest_bpflink"]).returncode:
        pytest.skip(f"another user can't run {sys.executable} here")
    with tempfile.TemporaryDirectory(prefix="bpflink, of nobody ") as directory:
        home = Path(directory)
        shutil.copytree(ubuntu.root, home / "archive")
        shutil.copy(ubuntu.signer.keyring, home / "k,e y.gpg")
        uri = f"file:{home}/archive".replace(" ", "%20")
        write(home / "sources", f"deb [signed-by=k,e y.gpg] {uri} jammy main")
        debs = home / "debs"
        debs.mkdir()
        for deb in home.glob(f"archive/pool/*-{UBUNTU}_*.deb"):
            shutil.copy(deb, debs)
        specs, releases = ["5.15.0-90", str(debs)], ["5.15.0-90-generic", UBUNTU]
        if shutil.which("skopeo"):
            image = {"boot/vmlinuz-6.6.9": "kernel", "lib/modules/6.6.9/modules.order": ""}
            specs.append(f"oci:{layout(home / 'image', layer(image))}")
            releases.append("6.6.9")
        for path in (home, *home.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        script = (
            "import sys\nfrom pytest_bpflink.vm.kernels import apt, find\n"
            "apt.host_sources = list\n"
            "for spec in sys.argv[1:]: print(find(spec).release)\n"
        )
        done = run_as_nobody(
            [sys.executable, "-c", script, *specs],
            cwd=home,
            env={
                "HOME": str(home),
                "PATH": os.environ["PATH"],
                "BPFLINK_KERNEL_SOURCES": str(home / "sources"),
            },
        )
        assert done.stdout.splitlines() == releases


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (
            "6.1.0-9-amd64 6.1.0-9-amd64-unsigned 6.1.0-9-cloud-amd64 6.6.0-9-generic",
            "6.1.0-9-amd64",
        ),
        ("6.8.0-31-generic unsigned-6.8.0-31-generic 6.8.0-31-lowlatency", "6.8.0-31-generic"),
        (
            "unsigned-6.6.0-060600-generic unsigned-6.6.0-060600-lpae",
            "unsigned-6.6.0-060600-generic",
        ),
        ("6.6.9-acme 6.6.9-acme-dbg 6.6.9-acme-rt amd64", "6.6.9-acme"),
        ("generic amd64", ""),
    ],
)
def test_flavour_of_an_archive(names: str, plain: str) -> None:
    given = [f"linux-image-{name}" for name in names.split()]
    found = debian.plain(["linux-modules-6.6.9-generic", *given], "amd64")
    assert found == {f"linux-image-{name}" for name in plain.split()}


def test_lists_of_sources_that_nobody_reads_are_pruned(tmp_path: Path) -> None:
    store = Store(tmp_path / "kernels")
    old, new = (tmp_path / "apt/added" / name for name in ("old", "new"))
    for directory in (old, new):
        write(directory / "updated")
        write(directory / "cache/archives/part.deb")
    os.utime(old / "updated", (1, 1))
    store.prune()
    assert not old.exists()
    assert (new / "updated").exists()
    assert not (new / "cache/archives/part.deb").exists()


# Signatures


@needs_apt
@needs_gpg
def test_archive_that_its_keyring_does_not_verify(
    store: Store,
    ubuntu: Ubuntu,
    tmp_path: Path,
    given: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("APT_CONFIG")
    feed(monkeypatch, "file:/nowhere")
    other = Signer(tmp_path / "other")
    given(ubuntu.line(keyring=other.keyring))

    with pytest.raises(KernelFetchError) as caught:
        find("5.15", store=store)

    assert re.search(
        rf": {re.escape(ubuntu.name)}: {re.escape(str(other.keyring))} does not verify it \(.*"
        r"(NO_PUBKEY \w+|Missing key .*)\)$",
        str(caught.value),
    )
    assert contents(store) == []
    given(ubuntu.line())
    assert find("5.15", store=store).version == "5.15.0"


@needs_apt
@needs_gpg
def test_key_may_be_armored(
    store: Store,
    ubuntu: Ubuntu,
    tmp_path: Path,
    given: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("APT_CONFIG")
    feed(monkeypatch, "file:/nowhere")
    enarmored = subprocess.run(
        ["gpg", "--homedir", ubuntu.signer.keyring.parent, "--armor", "--export"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Its name does not say it.
    keyring = write(tmp_path / "a key.gpg", enarmored.stdout)
    given(ubuntu.line(keyring=keyring))
    assert find("5.15", store=store).version == "5.15.0"


@needs_apt
@needs_gpg
def test_one_source_that_fails_leaves_the_others(
    store: Store, ubuntu: Ubuntu, given: Callable[..., Path]
) -> None:
    gone = f"deb [signed-by={ubuntu.signer.keyring}] file:/nowhere noble main"
    given(gone, ubuntu.line())
    said: list[str] = []

    assert find("5.15", store=store, progress=said.append).version == "5.15.0"

    (told,) = [line for line in said if "nowhere" in line]
    assert told.startswith("5.15: file:/nowhere noble: ")
    assert told.endswith("; it is looked for among the other kernels")


# What is written wrong


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("http://a b main", "'http://a b main' is no source of kernels: write deb [signed-by="),
        ("deb-src [signed-by=K] http://a sid main", " is no source of kernels: write deb ["),
        ("deb [signed-by=K] sid main", " is no source of kernels: write deb [signed-by=KEYRING]"),
        ("deb [signed-by=K] http://a sid", " is no source of kernels: write deb [signed-by=KEYR"),
        ("deb [signed-by=K] http://a ./ main", " is no source of kernels: write deb [signed-by="),
        ("deb [signed-by=K http://a sid main", " is no source of kernels: write deb [signed-by="),
        ("deb http://u:p@a sid main", "http://a sid: its deb line names no keyring, so nothing"),
        ("deb [arch=amd64] http://a sid main", "http://a sid: its deb line names no keyring, so"),
        ("deb [signed-by=none.gpg] http://a sid main", "its keyring {}/none.gpg can't be read (No"),
        (
            "deb [signed-by=k,a b.gpg] http://a sid main",
            "{}/k,a b.gpg is no keyring that apt reads",
        ),
        ("deb [signed-by=] http://a sid main", "the option 'signed-by' of its deb line is not one"),
        (
            "deb [trusted=yes signed-by=K] http://a sid main",
            "http://a sid: the option 'trusted' of its deb line is not one of signed-by, check-val",
        ),
    ],
)
def test_line_that_is_wrong(line: str, sentence: str, tmp_path: Path) -> None:
    write(tmp_path / "k,a b.gpg", "no key")
    with pytest.raises(SourceError) as caught:
        parse(line, tmp_path)
    assert sentence.format(tmp_path) in str(caught.value)


def test_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BPFLINK_KERNEL_SOURCES", str(tmp_path / "none"))
    with pytest.raises(SourceError) as caught:
        configured()
    assert str(caught.value) == (
        f"BPFLINK_KERNEL_SOURCES: {tmp_path}/none can't be read (No such file or directory)"
    )


def test_keyring_is_found_beside_the_file(tmp_path: Path, given: Callable[..., Path]) -> None:
    (tmp_path / "k, 1.gpg").write_bytes(b"\x98\x33")
    given("  deb [signed-by=k, 1.gpg check-date=no] http://a/ubuntu jammy main universe  ")
    (source,) = configured()
    assert source.keyring == tmp_path / "k, 1.gpg"
    assert source.line == "deb [check-date=no] http://a/ubuntu jammy main universe"
    (again,) = configured([source.whole_line])
    assert again == source


# The command


@needs_apt
@needs_gpg
def test_sources_are_listed_with_their_kernels(
    ubuntu: Ubuntu, tmp_path: Path, given: Callable[..., Path]
) -> None:
    gone = f"deb [signed-by={ubuntu.signer.keyring}] file:/nowhere noble main"
    given(ubuntu.line(), gone)

    done = bpflink("kernels", "sources", BPFLINK_CACHE=str(tmp_path / "cache, of mine"))

    assert done.returncode == 1
    assert done.stdout.splitlines()[:4] == [
        ubuntu.name,
        "  5.4   5.4.0",
        "  5.15  5.15.0      longterm",
        "  6.12  6.12.99     longterm",
    ]
    assert done.stdout.splitlines()[4].startswith("file:/nowhere noble: ")
    assert len(done.stdout.splitlines()) == 5


def test_no_sources(tmp_path: Path) -> None:
    done = bpflink("kernels", "sources", BPFLINK_CACHE=str(tmp_path))
    said = "there are none: BPFLINK_KERNEL_SOURCES names no file with a deb line for each\n"
    assert (done.returncode, done.stdout) == (0, said)


def test_command_says_what_is_wrong(tmp_path: Path, given: Callable[..., Path]) -> None:
    given("deb http://a sid main")
    for command in (["sources"], ["fetch", "5.4"], ["list", "--offered"]):
        done = bpflink("kernels", *command, BPFLINK_CACHE=str(tmp_path / "cache"))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "bpflink: http://a sid: its deb line names no keyring, so nothing can be verified:"
            " write deb [signed-by=KEYRING] URI SUITE COMPONENT...\n"
        )
