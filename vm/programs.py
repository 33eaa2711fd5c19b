"""Runs a program of the host to its end; the program dies if this process does.

QEMU, which lives as long as its guest, is started by `machine`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Executes $@ unless this process died before setpriv set PR_SET_PDEATHSIG. timeout limits no time
# here: it makes a process group, and sends the whole group SIGTERM, and SIGKILL 2 s later. Without
# it the children of apt (downloads) and dpkg-deb (tar) would survive their parents and go on
# writing.
_GUARD = '[ "$PPID" = "$1" ] && shift && exec timeout --kill-after=2 0 "$@"'


# strerror(ENOSPC), and tar's message if the disk was full in the middle of a block.
_FULL = r"No space left on device|Wrote only \d+ of \d+ bytes"


# Directories that Debian has on root's PATH only; depmod is in one of them.
_PATH_OF_ROOT = "/usr/local/sbin:/usr/sbin:/sbin"


def find(name: str) -> str | None:
    """Return the path of a program, also from root's PATH; None if it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_PATH_OF_ROOT}")


def run(command: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; if this process or thread dies before, the program is ended.

    Its messages are English. Raises FileNotFoundError if the program is not installed, and OSError
    with ENOSPC if its messages say that the disk is full.
    """
    program = find(command[0])
    if not program:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
    guarded = ["sh", "-c", _GUARD, "sh", str(os.getpid()), program, *command[1:]]
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *guarded],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        # `_FULL` and the callers read English messages.
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            # The program has another process group, so Ctrl-C in a terminal does not reach it.
            process.terminate()
            raise
    if re.search(_FULL, errors):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), command[0])
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
