"""Sphinx directives that write the reference from the plugin: fixtures, options, the API, commands.

So the reference can't fall behind the plugin. Its tables are the README's, which a test compares
with the plugin.
"""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sphinx.util.docutils import SphinxDirective

import pytest_bpflink
from pytest_bpflink import cli, fixtures, plugin
from pytest_bpflink.bpf.descriptor import Handle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docutils import nodes
    from sphinx.application import Sphinx

README = Path(__file__).parents[2] / "README.md"


class _FromMarkdown(SphinxDirective):
    """Puts Markdown into a page; the Markdown is made when pages are built."""

    has_content = False
    required_arguments = 0

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(README))
        return self.parse_text_to_nodes(self.markdown(), allow_section_headings=True)

    def markdown(self) -> str:
        """Return the Markdown."""
        raise NotImplementedError


class ReadmeSection(_FromMarkdown):
    """The section of the README with the title given as argument, without this title."""

    required_arguments = 1
    final_argument_whitespace = True

    def markdown(self) -> str:
        """Cut the section out of the README."""
        section = README.read_text().partition(f"\n## {self.arguments[0]}\n")[2]
        if not section:
            raise self.error(f"the README has no section {self.arguments[0]!r}")
        return section.partition("\n## ")[0]


class Fixtures(_FromMarkdown):
    """Every fixture, with its docstring."""

    def markdown(self) -> str:
        """Write a section for each fixture."""
        return "\n\n".join(
            f"## {name}\n\n*Scope: {scope}*\n\n{text}" for name, scope, text in _fixtures()
        )


class Options(_FromMarkdown):
    """Every option and every key of the configuration, with its whole help."""

    def markdown(self) -> str:
        """Write a definition for each option."""
        parser = _Recorder()
        plugin.pytest_addoption(parser)  # type: ignore[arg-type]
        return "\n\n".join(parser.entries)


class Api(_FromMarkdown):
    """Every public name by its docstring, below the name and the first sentence of its module."""

    def markdown(self) -> str:
        """Write a section for each module, with directives of autodoc."""
        sections = []
        for module, names in pytest_bpflink._MODULES.items():  # noqa: SLF001
            about = inspect.getdoc(importlib.import_module(f"pytest_bpflink.{module}")) or ""
            described = "\n\n".join(map(_autodoc, names))
            sections += [
                f"## {module.rpartition('.')[2]}",
                about.partition("\n\n")[0],
                f"```{{eval-rst}}\n{described}\n```",
            ]
        return "\n\n".join(sections)


def _autodoc(name: str) -> str:
    value = getattr(pytest_bpflink, name)
    directive = "autoclass" if inspect.isclass(value) else "autofunction"
    if not callable(value):
        directive = "autodata"
    text = f".. {directive}:: pytest_bpflink.{name}"
    if inspect.isclass(value) and issubclass(value, Handle):
        text += "\n   :inherited-members: MutableMapping"
    return text


class Commands(_FromMarkdown):
    """Every command of `bpflink`, with its --help."""

    def markdown(self) -> str:
        """Write a section for each command."""
        sections = []
        for name in cli.COMMANDS:
            shown = subprocess.check_output(
                [sys.executable, "-m", "pytest_bpflink.cli", name, "--help"],
                env=os.environ | {"COLUMNS": "100"},
                text=True,
            )
            sections.append(f"## bpflink {name}\n\n```text\n{shown}```")
        return "\n\n".join(sections)


_KINDS = {
    "args": "a list of strings, or one as in a shell",
    "linelist": "a list of strings",
    "paths": "a list of paths, relative to the configuration",
    None: "a string",
}


class _Recorder:
    """Stands in for `pytest.Parser`, which can't be read publicly, and records the options."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def getgroup(self, _name: str, description: str) -> _Recorder:
        self.entries.append(f"## {description}")
        return self

    def addoption(self, name: str, **options: Any) -> None:
        choices = options.get("choices")
        value = options.get("metavar") or ("{" + ",".join(choices) + "}" if choices else "")
        text = options["help"] % {"default": options.get("default")}  # as argparse does
        self.entries.append(f"`{f'{name} {value}'.strip()}`\n: {text}.")

    def addini(self, name: str, text: str, kind: str | None = None, default: object = None) -> None:
        said = f", by default `{default}`" if default else ""
        kind = _KINDS[kind]
        self.entries.append(f"`{name}` (configuration)\n: {text}; {kind}{said}.")


def _fixtures() -> Iterator[tuple[str, str, str]]:
    """Yield name, scope and docstring of the public fixtures, in the order of the file."""
    for name, value in vars(fixtures).items():
        if isinstance(value, pytest.FixtureDef) or name.startswith("_"):
            continue
        marker = getattr(value, "_fixture_function_marker", None)
        if marker is not None:
            text = inspect.getdoc(value._get_wrapped_function())  # noqa: SLF001
            yield name, marker.scope, text or ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("readme-section", ReadmeSection)
    app.add_directive("plugin-fixtures", Fixtures)
    app.add_directive("plugin-options", Options)
    app.add_directive("plugin-api", Api)
    app.add_directive("plugin-commands", Commands)
    return {"parallel_read_safe": True}
