"""A run over the small model whose adapter changes answers, with rows that a card is made of; rows of a card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import synthetic
from common.config import RunConfig
from common.model.adapter import read_adapter
from common.model.base import add_lora, load_base
from server.rounds.store import Checkpoint, EvaluationRow, FallRow, RunStore
from tests.server.reports.pages import round_row
from tests.small import small_config
from tests.tuned import with_random_b


def counts(*asked: int) -> dict[str, dict[str, int]]:
    """Counts of the first features of the codebook: one in two right, and one more where the letter is forced."""
    names = list(synthetic.codebook().by_name)
    return {
        name: {"asked": n, "free": n // 2, "forced": min(n, n // 2 + 1)} for name, n in zip(names, asked, strict=False)
    }


def exported_run(
    folder: Path, place: Path, *rows: EvaluationRow | FallRow, dtype: str = "float32", **changes: Any
) -> RunConfig:
    """Leave a run of three rounds with an adapter that matters."""
    config = small_config(place, **changes)
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    base, _ = load_base(config.model)
    adapted = with_random_b(add_lora(base, config.adapter, config.seed))
    with RunStore.opened(folder, config) as store:
        store.save(Checkpoint(3, read_adapter(adapted), {}))
        for number in range(1, 4):
            store.record(round_row(number, refused={"south": 503} if number == 2 else None))
        for row in rows:
            store.record(row)
    return config


def table_row(text: str, head: str) -> list[str]:
    """Cells of the first table row that begins so."""
    found = next(line for line in text.splitlines() if line.startswith(f"| {head} |"))
    return [part.strip() for part in found.strip("|").split("|")]
