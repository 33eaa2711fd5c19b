"""Which programs tests can name, by the text of their modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_bpflink.matrix.controller.named_programs import among, texts_of
from tests.support.kernel_trees import write

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("egress", "egress_v4", "egress_v6", "x", "ingress")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('bpf_object("progs/egress.bpf.c")', ["egress"]),
        ('name = "egress"', ["egress"]),
        ('f"egress_{family}.bpf.c"', ["egress_v4", "egress_v6"]),
        ('"egress_%s.bpf.c" % family', ["egress_v4", "egress_v6"]),
        ('path.glob("egress*.bpf.c")', ["egress", "egress_v4", "egress_v6"]),
        ('f"{name}.bpf.c"', []),
        ("exit(regress)", []),
    ],
)
def test_names_in_a_text(tmp_path: Path, text: str, named: list[str]) -> None:
    files = [tmp_path / f"{name}.bpf.c" for name in PROGRAMS]
    assert [file.name.partition(".")[0] for file in among(files, text)] == named


def test_imported_modules_count(tmp_path: Path) -> None:
    texts = {
        "test_it.py": "from support.loading import (\n    first,\n)\n",
        "support/loading.py": "from . import deeper\n",
        "support/deeper/__init__.py": "import test_it\nNAME = 'egress'\n",
        "test_other.py": "NAME = 'ingress'\n",
    }
    files = [write(tmp_path / name, text) for name, text in texts.items()]
    text = texts_of(files[:1], files)
    assert "egress" in text
    assert "ingress" not in text
