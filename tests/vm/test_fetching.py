"""Fetching kernels without a network, room on the disk, or permission to write; and in parts."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_bpflink import eventually
from pytest_bpflink.vm.kernels import KernelFetchError, KernelNotFound, Store, debian, expand, find
from tests.support.debian_archive import (
    FETCH,
    Signer,
    contents,
    feed,
    kernel_deb,
    make_archive,
    needs_apt,
)
from tests.support.processes import is_running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Nothing listens there.
NO_NETWORK = "http://127.0.0.1:9"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting and setuid need root")


def forget_when_it_was_updated(store: Store) -> None:
    """Let the next fetch read the lists of packages again."""
    (store.root.parent / "apt/updated").unlink()


# Words and patterns


@needs_apt
@pytest.mark.parametrize(("word", "version"), [("lts", "6.12.5"), ("newest", "7.2.9")])
def test_word_chooses_among_stored_and_offered_kernels(
    store: Store, word: str, version: str
) -> None:
    find("6.1.99", store=store)
    kernel = find(word, store=store)
    assert kernel.version == version
    assert (kernel.spec, kernel.id) == (word, word)


@needs_apt
def test_word_means_the_newest_of_its_series_though_an_older_one_is_here(store: Store) -> None:
    find("6.1.99", store=store)
    assert find("6.1", store=store).version == "6.1.99"
    assert find("oldest", store=store).version == "6.1.100"


@needs_apt
def test_word_fetches_nothing_that_is_here(store: Store) -> None:
    find("newest", store=store)
    said: list[str] = []
    find("newest", store=store, progress=said.append)
    assert said == []


@needs_apt
def test_pattern_is_expanded_to_offered_kernels(store: Store) -> None:
    assert expand("6.1*", store=store) == ["6.1", "6.12", "6.16"]
    assert expand("6.1.*", store=store) == ["6.1.99", "6.1.100"]
    assert not contents(store)


@needs_apt
def test_pattern_that_matches_nothing_lists_the_offered_kernels(store: Store) -> None:
    with pytest.raises(KernelNotFound, match=r"(?s)no kernel 9\.\*; there are:.*6\.12\.5"):
        expand("9.*", store=store)


@needs_apt
def test_kernel_whose_modules_are_gone_is_not_on_offer(store: Store) -> None:
    with pytest.raises(KernelNotFound, match=r"there is no kernel 7\.1; there are"):
        find("7.1", store=store)


@needs_apt
def test_kernel_is_complete_without_linux_base(store: Store) -> None:
    assert find("6.16", store=store).version == "6.16.3"


# No network


@needs_apt
def test_without_network_a_word_chooses_in_the_store_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for spec in ("6.1.99", "6.12"):
        find(spec, store=store)
    forget_when_it_was_updated(store)
    feed(monkeypatch, NO_NETWORK)
    for word, version in [("newest", "6.12.5"), ("lts", "6.12.5"), ("oldest", "6.1.99")]:
        said: list[str] = []
        assert find(word, store=store, progress=said.append).version == version
        assert f"{word}: there is no network; it is looked for in the store alone" in said
    assert expand("*", store=store) == ["6.1", "6.12"]


@needs_apt
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (Path.unlink, "newest: the mirror lists Linux 6.16.3, and does not have it"),
        (lambda deb: deb.write_bytes(b"x"), "apt-helper download-file failed"),
    ],
)
def test_packages_that_are_gone_or_damaged_since_the_lists_were_read(
    store: Store,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fault: Callable[[Path], object],
    sentence: str,
) -> None:
    own = shutil.copytree(archive, tmp_path / "archive")
    feed(monkeypatch, f"file:{own}")
    find("6.12", store=store)
    for deb in own.rglob("*.deb"):
        fault(deb)
    said: list[str] = []
    assert find("newest", store=store, progress=said.append).version == "6.12.5"
    assert sentence in said[-1]


@needs_apt
def test_without_network_and_with_an_empty_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, NO_NETWORK)
    with pytest.raises(KernelFetchError) as caught:
        find("newest", store=store)
    assert str(caught.value) == (
        "there is no kernel newest in the store, which is empty, and none can be fetched: there is"
        " no network"
    )


def test_without_apt_a_word_chooses_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    store = Store(tmp_path / "kernels")
    with pytest.raises(KernelFetchError, match=r"store, which is empty, .* there is no apt"):
        find("newest", store=store)
    for version in ("6.1.99", "6.12.5"):
        boot = store.root / f"{version}-amd64_{version}-1/boot"
        boot.mkdir(parents=True)
        (boot / f"vmlinuz-{version}-amd64").touch()
    assert find("newest", store=store).version == "6.12.5"
    assert expand("6*", store=store) == ["6.1", "6.12"]


# Signatures


@pytest.fixture
def signed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Signer, Signer]:
    """An archive that the first key signs, which the store trusts, and another key."""
    if not shutil.which("gpg"):
        pytest.skip("gpg is not on this host: apt-get install gnupg")
    monkeypatch.delenv("APT_CONFIG")
    archive = tmp_path / "signed"
    arch = debian.architecture()
    make_archive(archive, [kernel_deb(f"linux-image-6.1.0-9-{arch}", "6.1.99-1")])
    first, second = Signer(tmp_path / "first"), Signer(tmp_path / "second")
    first.sign(archive)
    feed(monkeypatch, f"file:{archive}", keyring=first.keyring)
    assert store.kernels() == []
    return archive, first, second


REJECTED = (
    r"apt rejects the mirror's signature or this host's keyring \(file:\S+ bookworm InRelease: "
    r".*(NO_PUBKEY \w+|Missing key .*)\)"
)


@needs_apt
def test_signature_of_an_unknown_key_is_named_and_no_network_is_asked_for(
    store: Store, signed: tuple[Path, Signer, Signer]
) -> None:
    archive, _, another = signed
    another.sign(archive)

    with pytest.raises(KernelFetchError) as caught:
        find("6.1", store=store)

    none = r"there is no kernel 6\.1 in the store, which is empty, and none can be fetched"
    assert re.fullmatch(f"{none}: {REJECTED}", str(caught.value))


@needs_apt
def test_lists_that_went_stale_under_another_key_are_told(
    store: Store, signed: tuple[Path, Signer, Signer]
) -> None:
    archive, first, another = signed
    expand("*", store=store)
    forget_when_it_was_updated(store)
    another.sign(archive)
    said: list[str] = []

    find("6.1", store=store, progress=said.append)
    find("newest", store=store, progress=said.append)

    told = [line for line in said if "rejects" in line]
    assert len(told) == 2
    earlier, alone = "the lists that were read earlier count", "the store alone"
    assert re.fullmatch(rf"6\.1: {REJECTED}; {earlier}", told[0])
    assert re.fullmatch(rf"newest: {REJECTED}; it is looked for in {alone}", told[1])

    first.sign(archive)
    said.clear()
    find("newest", store=store, progress=said.append)
    assert said == ["newest: reading the lists of packages"]


@needs_apt
def test_lists_with_a_stamp_from_the_future_are_read_again(store: Store) -> None:
    find("6.1.99", store=store)
    stamp = store.root.parent / "apt/updated"
    future = time.time() + 86400
    os.utime(stamp, (future, future))
    said: list[str] = []

    find("6.1.100", store=store, progress=said.append)

    assert said[0] == "6.1.100: reading the lists of packages"
    assert stamp.stat().st_mtime <= time.time()


# A download that is cut off


class Server(ThreadingHTTPServer):
    """Serves an archive, and stops in the middle of each package until `whole` is set."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.whole = threading.Event()
        #: The offset in a package at which each answer began.
        self.starts: list[int] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers a request, for a file or for the rest of one."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = self.server.root / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data, modified = path.read_bytes(), formatdate(path.stat().st_mtime, usegmt=True)
        package = path.suffix == ".deb"
        start = 0
        if self.headers["Range"] and self.headers["If-Range"] == modified:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Last-Modified", modified)
        self.end_headers()
        if package:
            self.server.starts.append(start)
        half = len(data) // 2
        if package and not self.server.whole.is_set():
            self.wfile.write(data[start:half])
            self.wfile.flush()
            self.server.whole.wait(60)
            return
        self.wfile.write(data[start:])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serve an archive with two kernels of some MB, which compression does not make small."""
    arch = debian.architecture()
    image = secrets.token_hex(4 << 20)
    root = tmp_path / "archive"
    make_archive(
        root,
        [
            kernel_deb(f"linux-image-6.1.0-10-{arch}", "6.1.100-1", image=image),
            kernel_deb(f"linux-image-6.12.5-{arch}", "6.12.5-1", image=image),
        ],
    )
    for package in (root / "pool").glob("*.deb"):
        os.utime(package, (0, 1_700_000_000))
    with Server(root) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.whole.set()
        serving.shutdown()
        thread.join()


def cut_off(server: Server, store: Store, spec: str) -> Path:
    """Kill a process in the middle of a download, and return the partial file."""
    archives = store.root.parent / "apt/cache/archives"
    command = [sys.executable, "-c", FETCH, server.uri, str(store.root), spec]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as run:
        eventually(lambda: any(part.stat().st_size for part in archives.glob("*.deb")), within=30)
        (part,) = archives.glob("*.deb")
        helpers = processes_in(archives)
        assert helpers
        run.send_signal(signal.SIGKILL)
    # apt must end with its parent: otherwise two processes would write to one file.
    eventually(lambda: not any(map(is_running, helpers)), within=30)
    return part


def processes_in(directory: Path) -> list[int]:
    """Return the processes that work in a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory:
                found.append(int(process.name))
        except OSError:
            continue
    return found


@needs_apt
def test_download_that_was_cut_off_is_continued(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = cut_off(server, store, "6.1")
    size = part.stat().st_size
    server.whole.set()
    feed(monkeypatch, server.uri)
    assert find("6.1", store=store).version == "6.1.100"
    assert server.starts == [0, size]
    assert not part.exists()


@needs_apt
def test_part_that_is_no_beginning_of_its_package_is_dropped(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = cut_off(server, store, "6.1")
    size, modified = part.stat().st_size, part.stat().st_mtime
    part.write_bytes(b"X" * size)
    os.utime(part, (0, modified))
    server.whole.set()
    feed(monkeypatch, server.uri)
    assert find("6.1", store=store).version == "6.1.100"
    assert server.starts == [0, size, 0]
    assert not list(part.parent.glob("*.deb*"))


@needs_apt
def test_fetching_another_kernel_drops_the_part_that_was_cut_off(
    store: Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = cut_off(server, store, "6.1")
    server.whole.set()
    feed(monkeypatch, server.uri)
    find("6.12", store=store)
    assert not part.exists()


# A disk that is full, or can't be written to


@contextmanager
def mounted(*options: str, at: Path) -> Iterator[Path]:
    """Mount a tmpfs."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


@needs_apt
@needs_root
@pytest.mark.usefixtures("store")
def test_disk_that_gets_full_leaves_a_store_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = debian.architecture()
    # The packages claim to take 20 KB, so that the check for room passes.
    fits, large = "kernel" * 50_000, "kernel" * 200_000
    make_archive(
        tmp_path / "archive",
        [
            kernel_deb(f"linux-image-6.1.0-10-{arch}", "6.1.100-1", image=fits),
            kernel_deb(f"linux-image-6.12.5-{arch}", "6.12.5-1", image=large),
            kernel_deb(f"linux-image-7.2.9-{arch}", "7.2.9-1", image=fits),
        ],
    )
    feed(monkeypatch, f"file:{tmp_path / 'archive'}")
    with mounted("size=1200k", at=tmp_path / "small") as disk:
        small = Store(disk / "kernels")
        first = find("6.1", store=small)
        with pytest.raises(
            KernelFetchError, match=r"small/kernels .*No space left on device.*BPFL"
        ):
            find("6.12", store=small)
        with pytest.raises(KernelFetchError, match="No space left on device"):
            find("lts", store=small)
        assert contents(small) == [f"6.1.0-10-{arch}_6.1.100-1"]
        assert not list(disk.glob("apt/cache/archives/*.deb"))
        assert first.image.stat().st_size == len(fits)
        assert find("7.2", store=small).version == "7.2.9"


@needs_apt
@needs_root
def test_disk_that_gets_full_while_downloading(
    store: Store, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.whole.set()
    feed(monkeypatch, server.uri)
    monkeypatch.setattr(Store, "_check_space", lambda *_arguments: None)
    with mounted("size=2m", at=tmp_path / "small") as disk:
        with pytest.raises(KernelFetchError, match="No space left on device"):
            find("6.1", store=Store(disk / "kernels"))
        assert not list(disk.glob("apt/cache/archives/*.deb*"))
    assert find("6.1", store=store).version == "6.1.100"


@pytest.fixture
def shared(store: Store) -> Iterator[Store]:
    """Make a store with one kernel that everybody can read."""
    # The temporary directories of pytest can be entered by their owner only.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        store.root = Path(directory) / "cache/kernels"
        find("6.12", store=store)
        yield store


def fetch_as_nobody(store: Store, *specs: str) -> list[str]:
    """Fetch as a user who can only read, and return the lines of output."""
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    command = [*drop, sys.executable, "-c", FETCH, NO_NETWORK, str(store.root), *specs]
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd="/"
    )
    return done.stdout.splitlines()


@needs_apt
@needs_root
def test_user_who_can_only_read_finds_the_stored_kernels(shared: Store) -> None:
    said = fetch_as_nobody(shared, "6.12", "newest", "6.1")
    nothing = "there is no kernel 6.1 in the store, which has 6.12.5, and none can be fetched"
    cannot = f"{shared.root} can't be written to (Permission denied)"
    assert said == [
        "6.12 is 6.12.5",
        f"newest: {cannot}; in the store it is Linux 6.12.5",
        "newest is 6.12.5",
        f"6.1: {nothing}: {cannot}; BPFLINK_CACHE names another directory",
    ]


@needs_apt
@needs_root
@pytest.mark.usefixtures("store")
def test_stored_kernels_on_a_read_only_medium_are_found(tmp_path: Path) -> None:
    with mounted("size=4m", at=tmp_path / "medium") as disk:
        medium = Store(disk / "kernels")
        find("6.12", store=medium)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert find("6.12", store=medium).version == "6.12.5"
        assert find("newest", store=medium).version == "6.12.5"
        assert expand("6*", store=medium) == ["6.12"]
        with pytest.raises(KernelFetchError, match=r"\(Read-only file system\); BPFLINK_CACHE"):
            find("6.1", store=medium)
    with pytest.raises(KernelFetchError, match="which is empty"):
        find("6.1", store=Store(Path("/proc/nowhere")))
