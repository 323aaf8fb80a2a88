"""Who may import whom: a room only the rooms that lie below it, a side never the other, and no module itself."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.imports import circle, imported, modules, rooms
from tests.paths import PACKAGES, ROOT

MAY_IMPORT = {
    "common": {"common"},
    "client": {"client", "common"},
    "server": {"server", "common"},
    "simulation": {"simulation", "client", "server", "common"},
}
ROOMS = {
    "client.options": set[str](),
    "client.registry": set[str](),
    "client.questions": set[str](),
    "client.site": {"options", "registry"},
    "client.policy": {"options", "site"},
    "client.privacy": {"site"},
    "client.grpo": {"site"},
    "client.training": {"grpo", "options", "policy", "privacy", "questions", "site"},
    "client.node": {"options", "policy", "privacy", "site", "training"},
    "client.draft": {"registry", "site"},
    "client.preview": {"site"},
    "client.review": {"options", "preview", "registry", "site"},
    "client.inspection": {"grpo", "node", "policy", "privacy", "questions", "registry", "site"},
    "client.dashboard": {
        *("draft", "grpo", "node", "options", "policy", "preview", "privacy", "site", "training"),
    },
    "client.app": {"node", "training"},
    "client.__main__": {
        *("dashboard", "draft", "inspection", "node", "options", "policy", "preview", "privacy", "review", "site"),
        "training",
    },
    "server.amounts": set[str](),
    "server.options": set[str](),
    "server.provisioning": set[str](),
    "server.models": set[str](),
    "server.services": {"amounts", "provisioning"},
    "server.rounds": {"amounts", "provisioning", "services"},
    "server.reports": {"amounts", "provisioning", "rounds", "services"},
    "server.dashboard": {"options", "amounts", "provisioning", "reports", "rounds"},
    "server.app": {"amounts", "provisioning", "rounds"},
    "server.__main__": {"dashboard", "models", "options", "provisioning", "reports", "rounds", "services"},
    "common.errors": set[str](),
    "common.access": {"errors"},
    "common.alike": set[str](),
    "common.arrays": set[str](),
    "common.flower": set[str](),
    "common.processes": set[str](),
    "common.wilson": set[str](),
    "common.stream": set[str](),
    "common.logs": set[str](),
    "common.toml": {"access", "errors"},
    "common.cli": {"access", "errors", "logs"},
    "common.sqlite": {"cli", "errors"},
    "common.lattice": {"arrays", "errors"},
    "common.accounting": {"arrays", "processes"},
    "common.identity": {"errors", "toml"},
    "common.fresh": {"errors", "identity"},
    "common.pages": set[str](),
    "common.web": {"cli", "errors", "identity", "logs", "pages"},
    "common.tasks": {"alike", "toml"},
    "common.feature": {"alike", "toml"},
    "common.codebook": {"errors", "feature", "tasks", "toml"},
    "common.synthetic": {"codebook", "errors", "feature", "tasks"},
    "common.sums": {"toml"},
    "common.weights": {"toml"},
    "common.guard": {"toml"},
    "common.wording": {"toml"},
    "common.collapse": set[str](),
    "common.config": {"weights", "codebook", "errors", "guard", "sums", "synthetic", "toml", "wording"},
    "common.questions": {"codebook", "config", "errors", "feature", "stream", "tasks"},
    "common.messages": {"arrays", "config", "errors", "identity", "toml"},
    "common.secagg": {"arrays", "config", "errors", "identity", "messages"},
    "common.mechanisms": {"accounting", "config", "secagg"},
    "common.decoding": {"config", "errors", "questions"},
    "common.model": {"arrays", "config", "decoding", "errors", "processes", "toml"},
    "common.tiny": {"codebook", "config", "errors", "feature", "model", "questions", "stream", "synthetic"},
}
"""Room -> the rooms of its own package that it may import: none, or those of its line; all stand above it."""

FLOWERS = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation"}
"""What Flower calls its public API; every other module of it may change with any version."""
INSIDE_FLOWER = {"client/node/worker.py", "server/rounds/sending.py"}
"""The files that import of the others, named in docs/architecture.md."""


def forbidden(root: Path) -> set[str]:
    """Return every import between rooms that no rule allows, as `importer -> imported`."""
    found = set()
    for room, others in rooms(modules(root)).items():
        package = room.partition(".")[0]
        for other in others:
            own, _, name = other.partition(".")
            allowed = own in MAY_IMPORT[package] and (
                own != package or package == "simulation" or name in ROOMS.get(room, {""})
            )
            if not allowed:
                found.add(f"{room} -> {other}")
    return found


def test_a_room_imports_only_what_it_may() -> None:
    assert forbidden(ROOT) == set()


def test_no_rule_is_for_a_room_or_an_import_that_is_not_there() -> None:
    there = rooms(modules(ROOT))
    assert ROOMS.keys() <= there.keys()
    unused = {
        f"{room} -> {name}"
        for room, names in ROOMS.items()
        for name in names
        if f"{room.partition('.')[0]}.{name}" not in there[room]
    }
    assert unused == set()


def test_rooms_stand_one_above_another() -> None:
    above: list[str] = []
    for room, names in ROOMS.items():
        package = room.partition(".")[0]
        assert {f"{package}.{name}" for name in names} <= set(above), room
        above.append(room)


def test_no_module_imports_itself_by_a_detour() -> None:
    assert circle(modules(ROOT)) == []


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("common/config.py", "from client.site.config import load_site", "common.config -> client.site"),
        ("common/config.py", "import server.rounds.store", "common.config -> server.rounds"),
        ("client/node/outbox.py", "from server.rounds import store", "client.node -> server.rounds"),
        ("client/grpo/step.py", "from client.registry.load import registry_from", "client.grpo -> client.registry"),
        ("client/site/config.py", "from ..node.outbox import Outbox", "client.site -> client.node"),
        ("server/rounds/store.py", "from simulation.arms import LocalExchange", "server.rounds -> simulation.arms"),
    ],
)
def test_an_import_that_no_rule_allows_is_found(tmp_path: Path, path: str, line: str, found: str) -> None:
    """Also inside a function, where it would be found by nobody who only starts the program."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "templates"))
    changed = tmp_path / path
    changed.write_text(f"{changed.read_text()}\n\ndef _later() -> None:\n    {line}\n")
    assert found in forbidden(tmp_path)


def inside_flower(root: Path) -> set[str]:
    """Return the files that import more of Flower than its public API."""
    return {
        path.relative_to(root).as_posix()
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
        if any(name.split(".")[0] == "flwr" and name not in FLOWERS for name in imported(path, root))
    }


def test_what_is_flowers_own_is_imported_where_the_page_on_architecture_says() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert inside_flower(ROOT) == INSIDE_FLOWER
    assert all(f"`{path}`" in page for path in INSIDE_FLOWER)


@pytest.mark.parametrize(
    "line",
    [
        "from flwr.common import serde",
        "import flwr.supercore.run",
        "from flwr import supercore",
        "import flwr.app.message",
    ],
)
def test_an_import_of_what_is_flowers_own_is_found(tmp_path: Path, line: str) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
    (tmp_path / "common" / "inside.py").write_text(
        f"from flwr.app import Message\n\ndef _later() -> None:\n    {line}\n"
    )
    (tmp_path / "common" / "public.py").write_text("import flwr.simulation\nfrom flwr.app import Message\n")
    assert inside_flower(tmp_path) == {"common/inside.py"}


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_the_page_on_architecture_names_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"^\| `([a-z]+/[a-z_]+)/` \|", page, re.MULTILINE))
    folders = {
        path.relative_to(ROOT).as_posix()
        for package in ("client", "server", "common")
        for path in (ROOT / package).iterdir()
        if (path / "__init__.py").exists()
    }
    assert named == folders
