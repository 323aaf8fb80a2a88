"""The folder of a run: its sites, and where each arm of the comparison keeps its adapter and its counts."""

from __future__ import annotations

from pathlib import Path

from client.training.workplace import Workplace

FEDERATED = "federated"
BEFORE = "before"


def open_sites(folder: Path) -> list[Workplace]:
    """Open the sites of a run folder, by name."""
    return [Workplace(path.parent) for path in sorted((folder / "sites").glob("*/site.toml"))]


def arm_folder(folder: Path, arm: str) -> Path:
    """Folder of an arm; the federation's is the run folder itself, as at a coordinator."""
    return folder if arm == FEDERATED else folder / "arms" / arm


def result_path(folder: Path, arm: str) -> Path:
    """File with an arm's held-out counts."""
    return folder / "arms" / f"{arm}.json"
