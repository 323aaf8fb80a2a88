"""How long a group of completions takes here, on patients that nobody is."""

from __future__ import annotations

import time
from dataclasses import replace

from client.privacy.mechanism import Exact
from client.training.engine import Engine
from client.training.gradients import gradients
from common.codebook import Codebook
from common.config import RunConfig
from common.questions.question import QuestionMaker
from common.tiny.text import CodebookText

_PROBE_PATIENTS, _PROBE_SECONDS = 16, 20.0


def seconds_per_group(
    engine: Engine, maker: QuestionMaker, codebook: Codebook, config: RunConfig, ranks: int = 1
) -> float:
    """Measure what a group takes at the engine's adapter, on made-up patients, where so many ranks share a round's.

    The first patient brings in what is loaded late. As many more as a round has, within some seconds, are then computed
    together as a round computes them; where one alone takes long, it is the measure.
    """
    federation, per_patient = config.federation, config.questions.per_patient
    text, exact = CodebookText(codebook, config.questions.view, config.seed), Exact(config, 0, 0, 0)

    def measured(count: int) -> float:
        patients = [replace(text.patient(), id=f"made up {number}") for number in range(count)]
        started = time.monotonic()
        for _ in gradients(engine, maker, patients, config, exact):
            pass
        return (time.monotonic() - started) / (count * per_patient)

    first = measured(1)
    expected = round(federation.population / federation.sites * federation.sampling_rate)
    count = min(expected, _PROBE_PATIENTS, int(_PROBE_SECONDS / (first * per_patient + 1e-9)))
    return (measured(count) if count >= 1 else first) / max(1, min(ranks, expected))
