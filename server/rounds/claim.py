"""`config.json` of a run's folder: which configuration the folder belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.config import RunConfig
from common.errors import Code, FedReasonError

FILE = "config.json"
ANEW = "give the run another name; the folder of one without privacy and secure sums may be moved away instead."
"""How to begin anew: attempts that were made are never made twice."""


def claim_text(config: RunConfig) -> str:
    """Return the content of the file."""
    return json.dumps({"sha256": config.sha256, "config": config.model_dump(mode="json")}, indent=1)


def claim_of(folder: Path) -> dict[str, Any]:
    """Return the configuration that a run folder belongs to, with its hash; empty where the file is not there.

    Raises
    ------
    FedReasonError
        RUN_CHECKPOINT where it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        claim = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        claim = None
    if not isinstance(claim, dict) or not isinstance(claim.get("sha256"), str):
        raise FedReasonError(
            Code.RUN_CHECKPOINT,
            f"{path} is damaged.",
            "Put it back from a backup, or move it away: the checkpoint, too, says of which configuration it is.",
        )
    return claim


def require_same(folder: Path, config: RunConfig) -> None:
    """Refuse the folder of another configuration.

    Raises
    ------
    FedReasonError
        RUN_OTHER_CONFIG, or RUN_CHECKPOINT where nothing can be read of which it is.
    """
    found = claim_of(folder).get("sha256", config.sha256)
    if found != config.sha256:
        raise FedReasonError(
            Code.RUN_OTHER_CONFIG,
            f"{folder} holds a run of another configuration ({found[:12]}, now {config.sha256[:12]}).",
            f"To begin anew {ANEW}",
        )
