"""Who imports whom, read from the source: whatever is imported, wherever in a file it stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from tests.paths import PACKAGES

Graph = dict[str, set[str]]


def imported(path: Path, root: Path) -> Iterator[str]:
    """Yield the names that a file of the tree imports: modules, and what it takes from a package."""
    package = path.relative_to(root).parent.parts
    for node in statements(path.read_text()):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        else:
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, node.module] if node.module else base)
            is_package = root.joinpath(*source.split(".")).is_dir()
            yield from (f"{source}.{name.name}" if is_package else source for name in node.names)


@cache
def statements(text: str) -> list[ast.Import | ast.ImportFrom]:
    """Return the imports of a source; the tree is read many times, each time with one file of it changed."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom)]


def modules(root: Path) -> Graph:
    """Return each module of the product code with the modules of it that it imports."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }
    return {
        module: {known for name in imported(path, root) if (known := _known(name, paths.keys())) not in (None, module)}
        for module, path in paths.items()
    }


def rooms(graph: Graph) -> Graph:
    """Return each room, a folder or a file right below a package, with the other rooms that it imports."""
    found: Graph = {}
    for module, others in graph.items():
        room = room_of(module)
        found.setdefault(room, set()).update({room_of(other) for other in others} - {room})
    return found


def room_of(module: str) -> str:
    """Return `client.node` of `client.node.outbox`."""
    return ".".join(module.split(".")[:2])


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return a way from a name back to itself, or nothing where there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def _known(name: str, among: object) -> str | None:
    """Return the module that a name is or is taken from; None where it is none of ours."""
    while name and name not in among:  # type: ignore[operator]
        name = name.rpartition(".")[0]
    return name or None
