"""A site's whole part of a private round beside the same part of an exact one, on the CPU: what privacy costs in time.

From the task to the answer, as a hospital's resident process takes it: gate, ledger, attempts, coins, questions,
rollouts, gradients, clip, noise. Every patient takes part, and a random model that is held to its base by KL has a
gradient of every question, so that all steps do the same work but for chance; the two alternate.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.grpo_work import Work, random_model
from client.training.requests import contribute
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.messages.kinds import Task
from simulation.prepare import prepare
from tests.small import make_small_tokenizer

HOSPITAL = "north"
QUESTIONS_PER_PATIENT = 2
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 4.0, "delta": 1e-5}


def compared(work: Work, repeats: int) -> dict[str, float]:
    """Return medians of the seconds of processor time, and of their ratio, over `repeats` pairs of steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = make_small_tokenizer()
        model = random_model(tokenizer)
        model.unload().save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        configs = [_config(work, folder / "model", privacy) for privacy in (None, PRIVACY)]
        place = Workplace(next(iter(prepare(configs[0], synthetic.codebook(), folder).values())))
        size = place.engine(configs[0]).layout.size
        pairs = []
        for number in range(repeats + 1):
            exact, private = (_seconds(place, config, number, size) for config in configs)
            print(f"  step {number}: exact {exact:.3f} s, private {private:.3f} s", file=sys.stderr)
            pairs.append((exact, private))
    pairs = pairs[1:]
    return {
        "exact_cpu_seconds": statistics.median(exact for exact, _ in pairs),
        "private_cpu_seconds": statistics.median(private for _, private in pairs),
        "private_to_exact": statistics.median(private / exact for exact, private in pairs),
    }


def _seconds(place: Workplace, config: RunConfig, number: int, size: int) -> float:
    started = time.process_time()
    contribute(place, Task(config, number + 1, 0, adapter=np.zeros(size, dtype=np.float32)))
    return time.process_time() - started


def _config(work: Work, model: Path, privacy: dict[str, float] | None) -> RunConfig:
    patients = max(1, work.groups // QUESTIONS_PER_PATIENT)
    table: dict[str, Any] = {
        "name": "exact" if privacy is None else "private",
        "model": {"base": str(model)},
        "questions": {
            "view": "core",
            "per_patient": QUESTIONS_PER_PATIENT,
            "held_out": 0.0,
            "codebook_sha256": synthetic.codebook().sha256,
        },
        "grpo": {
            "group_size": work.generations,
            "max_prompt_tokens": 10**6,
            "max_completion_tokens": work.completion,
            "kl": 0.05,
        },
        "federation": {"name": "bench", "rounds": 1000, "sites": 1, "population": 100, "sampling_rate": 1.0},
        "optimizer": {"learning_rate": 1e-3},
        "simulation": {"hospitals": [HOSPITAL], "patients": patients},
    }
    return RunConfig.model_validate(table | ({} if privacy is None else {"privacy": privacy}))
