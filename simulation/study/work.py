"""What a process of a study, or a task of Ray, does: some units one after the other, with their events told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import FedReasonError
from common.logs import quiet_libraries
from server.rounds.loop import Progress
from simulation.study.answers import run_unit
from simulation.study.claim import require_claim
from simulation.study.config import load_study
from simulation.study.units import Unit


def work(path: Path, names: Sequence[str], runs: Path, emit: Callable[[dict[str, Any]], None]) -> bool:
    """Do some units one after the other, telling their events; say whether all could be done."""
    quiet_libraries()
    study = load_study(path)
    folder = runs / "studies" / study.config.name
    for unit in map(Unit.named, names):
        started = time.monotonic()

        def tell(progress: Progress, name: str = unit.name) -> None:
            emit({"unit": name, "round": progress.round})

        emit({"unit": unit.name, "round": 0})
        try:
            require_claim(folder, study)
            run_unit(study, unit, folder, tell)
        except FedReasonError as error:
            emit({"unit": unit.name, "code": int(error.code), "found": error.found, "fix": error.fix})
            return False
        emit({"unit": unit.name, "done": True, "seconds": time.monotonic() - started})
    return True
