"""How Sphinx builds these pages: `make docs`, without a network, and with warnings as errors."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path += [str(HERE / "extensions"), str(HERE.parent)]

project = "pytest-bpflink"
author = "The pytest-bpflink authors"
project_copyright = author
with (HERE.parent / "pyproject.toml").open("rb") as file:
    release = version = tomllib.load(file)["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "plugin_reference"]
exclude_patterns = ["extensions"]
nitpicky = False  # docstrings name kernel structures and options that have no page
smartquotes = False  # `--kernel` is no dash

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings write `name` for code, as comments do.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
autoclass_content = "class"
add_module_names = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "pytest-bpflink"
html_copy_source = False
html_show_copyright = False
