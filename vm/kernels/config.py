"""Reads a kernel's build configuration (.config)."""

from __future__ import annotations

import re


def parse_config(text: str) -> dict[str, str]:
    """Return the options that are set, `CONFIG_*` to their values; strings without their quotes."""
    options = re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE)
    return {name: value.strip('"') for name, value in options}
