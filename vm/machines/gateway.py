"""The "interpreter" that execnet starts: it connects execnet with the Python in a guest.

Run as `python -S -E gateway.py DIRECTORY -u -c BOOTSTRAP`. `machine` has booted the guest, in which
a Python waits for execnet's first line; DIRECTORY has the pipes to it. The program ends when the
guest or execnet ends. Standard library only, so that it starts quickly.
"""

import _thread
import os
import signal
import sys

# The program that execnet has an interpreter run; the Python in the guest runs it.
BOOTSTRAP = "import sys;exec(eval(sys.stdin.readline()))"

TO_GUEST = "to-guest"
FROM_GUEST = "from-guest"

_CHUNK = 1 << 16


def main(arguments: list[str]) -> int:
    """Relay until one side ends."""
    directory, *options = arguments
    if options[-2:] != ["-c", BOOTSTRAP]:
        sys.stderr.write(
            "pytest-bpflink: guests are not prepared for this version of execnet, which starts"
            f" interpreters with {options}\n"
        )
        return 2
    # Ctrl-C reaches the whole process group. pytest handles it, and then closes our streams.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # Without O_NONBLOCK this would wait for a QEMU that may be dead.
        to_guest = os.open(f"{directory}/{TO_GUEST}", os.O_WRONLY | os.O_NONBLOCK)
        from_guest = os.open(f"{directory}/{FROM_GUEST}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        sys.stderr.write(f"pytest-bpflink: the guest is gone: {error}\n")
        return 1
    os.set_blocking(to_guest, True)
    os.set_blocking(from_guest, True)
    _thread.start_new_thread(_relay_and_exit, (0, to_guest))
    _relay_and_exit(from_guest, 1)
    return 0


def _relay_and_exit(source: int, sink: int) -> None:
    try:
        while chunk := os.read(source, _CHUNK):
            while chunk:
                chunk = chunk[os.write(sink, chunk) :]
    except OSError:
        pass
    # Not sys.exit: the other direction is blocked in a read.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
