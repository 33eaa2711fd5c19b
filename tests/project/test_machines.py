"""Each session of `make test-machines` is run by its own job of the workflow."""

from __future__ import annotations

import re

from machines.__main__ import SESSIONS
from tests.support import ROOT


def test_each_session_is_listed() -> None:
    modules = (ROOT / "machines").glob("*.py")
    found = {file.stem for file in modules if "def run(stage: Stage)" in file.read_text()}
    assert found == set(SESSIONS)


def test_each_session_has_a_job() -> None:
    workflow = (ROOT / ".github/workflows/test.yml").read_text()
    (listed,) = re.findall(r"session: \[(.*)\]", workflow)
    assert listed.split(", ") == [name.replace("_", "-") for name in SESSIONS]
