"""Makes text from tests, consoles and libraries fit to be shown, whichever characters it holds."""

from __future__ import annotations

import re

# ECMA-48: strings up to their terminator (titles, hyperlinks), CSI, and shorter sequences.
_ESCAPE_SEQUENCE = re.compile(
    r"\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]"
)

# Not tab and newline. The last two ranges change the direction of the text around them.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_LINE_LIMIT = 500


def clean(text: str) -> str:
    r"""Return text without terminal sequences, and with other unseen characters as \x07.

    The text can be encoded: a lone surrogate is written out, too.
    """
    text = _ESCAPE_SEQUENCE.sub("", text.replace("\r\n", "\n"))
    text = _UNSEEN.sub(_written_out, text)
    return text.encode("utf-8", "backslashreplace").decode()


def line(text: str) -> str:
    """Return text as one line of bounded length."""
    return cut(" ".join(clean(text).split()), _LINE_LIMIT, mark=" [...] ")


def cut(text: str, limit: int, *, mark: str = "") -> str:
    """Return the beginning and the end of a text: `limit` characters, and a mark for the rest."""
    left_out = len(text) - limit
    if left_out <= 0:
        return text
    # A traceback says most at its end, and so does a console.
    beginning = limit // 3
    mark = mark or f"\n[... {left_out} characters are left out here ...]\n"
    return text[:beginning] + mark + text[beginning + left_out :]


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
