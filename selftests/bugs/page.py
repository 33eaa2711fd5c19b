"""Makes docs/kernel-bugs.md from the rows.

python -m pytest_bpflink.selftests.bugs.page > docs/kernel-bugs.md
"""

from __future__ import annotations

import inspect
import sys

from pytest_bpflink.selftests.bugs.rows import BUGS, KernelBug

_INTRODUCTION = """\
# Kernel bugs

What kernels are known to do wrong with links. Don't edit this page: `make kernel-bugs` made it from
the rows in `selftests/bugs/rows.py`. To see one of them, in a guest of its own:

```console
$ pytest selftests/test_known_bugs.py -k {first} --kernel {kernel}
```

The test is expected to fail on a kernel that has the bug, and passes on others. The functions below
use the stages of the conformance suite, which attach a program and make it run.
"""


def text() -> str:
    """Return the page's text."""
    first = BUGS[0]
    return "".join(
        [_INTRODUCTION.format(first=first.id, kernel=first.seen_on[-1]), *map(_section, BUGS)]
    )


def _section(bug: KernelBug) -> str:
    function = inspect.getsource(bug.reproduce)
    splat = f"\n```text\n{bug.splat}\n```\n" if bug.splat else ""
    without = f"; not on {', '.join(bug.not_on)}" if bug.not_on else ""
    return f"""
## {bug.id}

`{bug.cause.split()[0]}` {bug.cause.partition(" ")[2]}.

- Seen on {", ".join(bug.seen_on)}{without}
- May have come with {bug.brought_by}
{splat}
```{{code-block}} python
{function}```
"""


if __name__ == "__main__":
    sys.stdout.write(text())
