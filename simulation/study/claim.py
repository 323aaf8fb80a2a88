"""Which study a folder holds, and made by which versions: asked by whoever starts it and before every unit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from common.errors import Code, FedReasonError
from server.reports.report import LIBRARIES
from server.rounds.store import locked, write_durably
from simulation.study.config import Study

TABLE = "study.parquet"
_MARKER = "study.json"
_LIBRARIES = (*LIBRARIES, "numpy", "scikit-learn")
"""What the bits of an answer depend on."""


@contextmanager
def claimed(folder: Path, study: Study) -> Iterator[None]:
    """Hold a study's folder for this process alone.

    Raises
    ------
    FedReasonError
        Where another process works in it, or it belongs to another study.
    """
    with locked(folder):
        if not (folder / _MARKER).exists():
            write_durably(folder / _MARKER, json.dumps({"sha256": study.sha256, "made_with": versions()}))
        require_claim(folder, study)
        yield


def require_claim(folder: Path, study: Study) -> None:
    """Refuse a folder of another study, or one that other versions have begun and not finished.

    Raises
    ------
    FedReasonError
        RUN_OTHER_CONFIG.
    """
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
        found, before = str(marker["sha256"]), dict(marker.get("made_with", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found, before = "unreadable", {}
    if found != study.sha256:
        raise FedReasonError(
            Code.RUN_OTHER_CONFIG,
            f"{folder} holds another study ({found[:12]}, now {study.sha256[:12]}).",
            "Give the study another name, or move the folder away.",
        )
    others = [f"{name} {before.get(name)}, now {now}" for name, now in versions().items() if before.get(name) != now]
    if others and not (folder / TABLE).exists():
        raise FedReasonError(
            Code.RUN_OTHER_CONFIG,
            f"{folder} was begun by other versions: {'; '.join(others)}.",
            "Go on with those, so that all of its answers are alike; or move the folder away.",
        )


def versions() -> dict[str, str]:
    """Return the versions that a study is made with."""
    return {name: version(name) for name in _LIBRARIES}
