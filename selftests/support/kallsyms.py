"""The addresses of the kernel's functions, as /proc/kallsyms has them."""

from __future__ import annotations

from functools import cache


@cache
def addresses(*names: str) -> tuple[int, ...]:
    """Return the addresses of functions. A guest takes half a second: ask with the same names."""
    found: dict[str, int] = {}
    with open("/proc/kallsyms", encoding="utf-8") as lines:
        for line in lines:
            address, _, name = line.split(maxsplit=3)[:3]
            if name in names:
                found.setdefault(name, int(address, 16))
                if len(found) == len(names):
                    break
    return tuple(found[name] for name in names)
