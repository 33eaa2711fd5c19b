"""Programs that do one thing for us, and end with us.

Knows processes only. QEMU, which lives as long as a guest, is `machine`'s.
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

# Starts $@ unless the process that asked for it has died before PR_SET_PDEATHSIG was set. timeout
# sets no limit here: it makes a process group, and passes SIGTERM on to all of it, and SIGKILL 2 s
# later. Without that apt's downloads and dpkg-deb's tar could go on writing without their parents.
_GUARD = '[ "$PPID" = "$1" ] && shift && exec timeout --kill-after=2 0 "$@"'


# strerror(ENOSPC), and what tar says when only the beginning of a block could be written.
_FULL = r"No space left on device|Wrote only \d+ of \d+ bytes"


# Where depmod is, and what Debian gives root alone on PATH.
_ROOTS = "/usr/local/sbin:/usr/sbin:/sbin"


def find(name: str) -> str | None:
    """Return the path of a program, also where only root looks for programs; None for none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_ROOTS}")


def run(command: Sequence[str], *, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, in English; it ends sooner if this process or thread is killed.

    Raises FileNotFoundError if it is not installed, and OSError with ENOSPC if it says so itself.
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
        # What is read of their messages is English.
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            # By a Ctrl-C, which the process group of its own keeps from the program.
            process.terminate()
            raise
    if re.search(_FULL, errors):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), command[0])
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
