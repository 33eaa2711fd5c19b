"""The rooms of the house, and the imports between them, read from its source.

`python -m tests.support.rooms` draws them, for docs/architecture.md.
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import TYPE_CHECKING

from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: From the top. A file is in the room of its own name, or else in the room of its folder.
ROOMS = (
    "selftests",
    "selftests/bugs",
    "selftests/model",
    "selftests/conformance/info",
    "selftests/conformance/creating",
    "selftests/upstream",
    "selftests/conformance",
    "selftests/support",
    "pytest_bpflink/plugin.py",
    "pytest_bpflink/fixtures.py",
    "pytest_bpflink/cli.py",
    "pytest_bpflink/__init__.py",
    "pytest_bpflink/matrix/setup.py",
    "pytest_bpflink/matrix/controller",
    "pytest_bpflink/matrix/worker",
    "pytest_bpflink/matrix/guests",
    "pytest_bpflink/matrix",
    "pytest_bpflink/commands",
    "pytest_bpflink/reports",
    "pytest_bpflink/session",
    "pytest_bpflink/ledger",
    "pytest_bpflink/features",
    "pytest_bpflink/features/probes",
    "pytest_bpflink/bpf",
    "pytest_bpflink/bpf/attaching",
    "pytest_bpflink/bpf/maps/map.py",
    "pytest_bpflink/bpf/link.py",
    "pytest_bpflink/bpf/programs",
    "pytest_bpflink/bpf/maps",
    "pytest_bpflink/bpf/descriptor.py",
    "pytest_bpflink/bpf/events",
    "pytest_bpflink/bpf/handles.py",
    "pytest_bpflink/bpf/wait.py",
    "pytest_bpflink/introspection",
    "pytest_bpflink/building",
    "pytest_bpflink/binding",
    "pytest_bpflink/system",
    "pytest_bpflink/errors.py",
    "vm/warm",
    "vm/machines",
    "vm/image",
    "vm/kernels",
    "vm/guest",
    "vm",
)


@dataclass(frozen=True)
class Import:
    """An import of a module, in any place of a file."""

    file: str
    module: str
    is_for_types: bool


def files(root: Path) -> dict[str, str]:
    """Return the files of the installed packages by the names of their modules."""
    found = {}
    for package in ("pytest_bpflink", "vm", "selftests"):
        # rglob follows no symbolic links: pytest_bpflink/vm and pytest_bpflink/selftests are links.
        for file in (root / package).rglob("*.py"):
            path = str(file.relative_to(root))
            parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
            prefix = [] if package == "pytest_bpflink" else ["pytest_bpflink"]
            found[".".join([*prefix, *parts])] = path
    return found


@cache
def all_imports(root: Path) -> list[Import]:
    """Return the imports of all files: at their tops, late ones, and those for type checkers."""
    modules = files(root)
    return [each for file in modules.values() for each in _imports(root, file, modules)]


def _imports(root: Path, file: str, modules: Mapping[str, str]) -> Iterator[Import]:
    tree = ast.parse((root / file).read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: write the whole name of the module"
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules else str(node.module) for name in below]
        else:
            continue
        for name in names:
            yield Import(file, name, id(node) in for_types)


def room(file: str) -> str:
    """Return the room of a file. Raises ValueError if it is in none."""
    if file in ROOMS:
        return file
    folder = file.rpartition("/")[0]
    if folder not in ROOMS:
        raise ValueError(f"{file} is in no room: move it, or give its folder a place in ROOMS")
    return folder


def upward_imports(root: Path) -> list[str]:
    """Return the imports that lead from a room to one above it."""
    modules = files(root)
    return [
        f"{each.file} imports {modules[each.module]}"
        for each in all_imports(root)
        if each.module in modules
        if ROOMS.index(room(modules[each.module])) < ROOMS.index(room(each.file))
    ]


def circles(root: Path) -> list[str]:
    """Return the files that import themselves through others."""
    modules = files(root)
    graph: dict[str, set[str]] = {file: set() for file in modules.values()}
    for each in all_imports(root):
        if modules.get(each.module, each.file) != each.file:
            graph[each.file].add(modules[each.module])
    # Files that import nothing, or only such files, are in no circle: take them away.
    while free := {file for file, imported in graph.items() if not imported & graph.keys()}:
        graph = {file: imported for file, imported in graph.items() if file not in free}
    return sorted(graph)


# The picture.

_WIDTH, _MARGIN, _GAP, _FLOOR = 1080, 28, 22, 34
_LINE, _TITLE, _PADDING, _CHARACTER = 17, 22, 12, 7.3

_STYLE = """\
    text { font: 600 14px system-ui, sans-serif; fill: #1c2733; }
    .modules { font: 12px ui-monospace, monospace; fill: #48586a; }
    .room { fill: #ffffff; stroke: #5b6b7c; stroke-width: 1.5; }
    .vm { fill: #e6edf5; }
    .selftests { fill: #fff3d6; }
    .arrow { fill: none; stroke: #2b5f9e; stroke-width: 1.5; opacity: 0.55; }
"""

_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}"
    role="img" aria-labelledby="title description">
  <title id="title">The rooms of the house</title>
  <desc id="description">Each box is a folder with its modules. An arrow leads from a folder to one
  that it imports; every arrow leads down.</desc>
  <style>
{style}  </style>
  <defs>
    <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"
        markerHeight="7" orient="auto">
      <path d="M0 0 8 4 0 8z" fill="#2b5f9e"/>
    </marker>
  </defs>
  <!-- A ground of its own, so that it reads on light pages and on dark ones. -->
  <rect width="{width}" height="{height:.0f}" rx="10" fill="#f6f8fa"/>
{content}
</svg>
"""


@dataclass(frozen=True)
class _Box:
    """A room in the picture: its modules in lines, and its place."""

    name: str
    lines: tuple[str, ...]
    width: float
    x: float = 0.0
    y: float = 0.0

    @property
    def height(self) -> float:
        return 2 * _PADDING + _TITLE + _LINE * len(self.lines) - 6


def room_graph(root: Path) -> dict[str, set[str]]:
    """Return the rooms that each room imports, all of them below it."""
    modules = files(root)
    graph: dict[str, set[str]] = {name: set() for name in ROOMS}
    for each in all_imports(root):
        if each.module in modules:
            graph[room(each.file)].add(room(modules[each.module]))
    return {name: below - {name} for name, below in graph.items()}


def picture(root: Path) -> str:
    """Return a picture of the rooms, as SVG: a room stands above all rooms that it imports.

    An arrow that others imply is left out.
    """
    graph = room_graph(root)
    boxes, height = _placed(_floors(graph), _contents(root))
    arrows = [
        _arrow(boxes[above], boxes[below])
        for above, imported in _reduced(graph).items()
        for below in sorted(imported, key=ROOMS.index)
    ]
    drawn = [line for box in boxes.values() for line in _drawn(box)]
    content = "\n".join([*arrows, *drawn])
    return _FRAME.format(width=_WIDTH, height=height, style=_STYLE, content=content)


def _floors(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the rooms floor by floor, from the top: each as low as its imports let it be."""

    @cache
    def floor(name: str) -> int:
        return 1 + max(map(floor, graph[name]), default=-1)

    highest = max(map(floor, graph))
    return [[name for name in ROOMS if floor(name) == level] for level in range(highest, -1, -1)]


def _reduced(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the graph without the arrows that follow from others."""

    @cache
    def reached(name: str) -> frozenset[str]:
        return frozenset(graph[name]).union(*map(reached, graph[name]))

    return {
        name: imported - {far for near in imported for far in reached(near)}
        for name, imported in graph.items()
    }


def _contents(root: Path) -> dict[str, list[str]]:
    """Return the names of the modules in each room."""
    contents: dict[str, list[str]] = {name: [] for name in ROOMS}
    for file in sorted(files(root).values()):
        name = file.rpartition("/")[2].removesuffix(".py")
        if room(file) != file and name != "__init__":
            contents[room(file)].append(name)
    return contents


def _placed(
    floors: list[list[str]], contents: Mapping[str, list[str]]
) -> tuple[dict[str, _Box], float]:
    """Return the boxes in their places, and the height of the picture."""
    boxes: dict[str, _Box] = {}
    y = float(_MARGIN)
    for names in floors:
        room_left = _WIDTH - 2 * _MARGIN - _GAP * (len(names) - 1)
        row = [_box(name, contents[name], room_left / len(names)) for name in names]
        x = (_WIDTH - sum(box.width for box in row) - _GAP * (len(row) - 1)) / 2
        for box in row:
            boxes[box.name] = _Box(box.name, box.lines, box.width, x, y)
            x += box.width + _GAP
        y += max(box.height for box in row) + _FLOOR
    return boxes, y - _FLOOR + _MARGIN


def _box(name: str, modules: list[str], most: float) -> _Box:
    characters = int(min(most, 460) - 2 * _PADDING) // _CHARACTER
    lines = textwrap.wrap(" ".join(modules), int(characters), break_on_hyphens=False)
    longest = max(map(len, [*lines, name + "   "]))
    return _Box(name, tuple(lines), min(most, longest * _CHARACTER + 2 * _PADDING))


def _drawn(box: _Box) -> Iterator[str]:
    top = box.name.partition("/")[0]
    kind = f"room {top}" if top in {"vm", "selftests"} else "room"
    size = f'width="{box.width:.0f}" height="{box.height:.0f}"'
    yield f'  <rect class="{kind}" x="{box.x:.0f}" y="{box.y:.0f}" {size} rx="6"/>'
    x, y = box.x + _PADDING, box.y + _PADDING + 12
    name = escape(box.name.removeprefix("pytest_bpflink/"))
    yield f'  <text x="{x:.0f}" y="{y:.0f}">{name}</text>'
    for line in box.lines:
        y += _LINE
        yield f'  <text class="modules" x="{x:.0f}" y="{y + 4:.0f}">{escape(line)}</text>'


def _arrow(above: _Box, below: _Box) -> str:
    x1, y1 = above.x + above.width / 2, above.y + above.height
    x2, y2 = below.x + below.width / 2, below.y
    bend = (y2 - y1) / 2
    curve = (
        f"M{x1:.0f} {y1:.0f} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} {x2:.0f} {y2:.0f}"
    )
    return f'  <path class="arrow" d="{curve}"/>'


if __name__ == "__main__":
    (ROOT / "docs/pictures/rooms.svg").write_text(picture(ROOT))
