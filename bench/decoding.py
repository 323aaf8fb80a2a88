"""What each way of decoding costs on the CPU: patient by patient, and several together; no training pass.

`python -m bench.decoding` samples from the embedded model for synthetic patients, the ways taking turns, one thread.
The last line is JSON: median seconds per group, and medians of the ratios to patient by patient, round by round.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Annotated

import torch
import typer

from bench.result import print_result
from client.grpo.rollout import roll_out, roll_out_together
from client.training.engine import Engine
from common import synthetic
from common.config import GrpoConfig, ModelConfig, RunConfig
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from common.tiny import tiny_model

WAYS = ("patient", "together")


def main(
    patients: Annotated[int, typer.Option(help="Patients.")] = 12,
    questions: Annotated[int, typer.Option(help="Questions of each.")] = 4,
    generations: Annotated[int, typer.Option(help="Completions of a question.")] = 8,
    completion: Annotated[int, typer.Option(help="Most tokens of a completion.")] = 14,
    groups: Annotated[list[int] | None, typer.Option(help="Groups decoded together; several may follow.")] = None,
    repeats: Annotated[int, typer.Option(help="Counted turns.")] = 7,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
) -> None:
    """Measure; progress goes to standard error."""
    torch.set_num_threads(1)
    run = RunConfig.model_validate(
        {
            "name": "decoding",
            "model": ModelConfig.model_validate({"dtype": dtype}),
            "federation": {"name": "f", "rounds": 1, "sites": 1, "population": 1, "sampling_rate": 1},
            "optimizer": {"learning_rate": 1},
        }
    )
    engine, maker = Engine(run, tiny_model(), "cpu"), QuestionMaker(synthetic.codebook(), "full")
    everyone = [
        (maker.draw(Patient(row["patient_id"], shown(row)), questions, Stream.named("asked", number)), number)
        for number, row in enumerate(synthetic.registry("north", patients, seed=5))
    ]
    results = []
    for together in groups or [4, 12]:
        shape = {"group_size": generations, "max_completion_tokens": completion}
        ways = {
            way: GrpoConfig(decode=way, decode_groups=None if way == "patient" else together, **shape) for way in WAYS
        }
        taken: dict[str, list[float]] = {way: [] for way in WAYS}
        for turn in range(repeats + 1):
            for way, config in ways.items():
                asked = [(mine, Stream.named("rollout", turn, number)) for mine, number in everyone]
                started = time.perf_counter()
                if way == "patient":
                    for mine, stream in asked:
                        roll_out(engine.sampler, engine.tokenizer, mine, config, stream)
                else:
                    roll_out_together(engine.sampler, engine.tokenizer, asked, config)
                taken[way] += [(time.perf_counter() - started) / (patients * questions)] * (turn > 0)
            print(
                together, turn, {way: times[-1] for way, times in taken.items() if times}, file=sys.stderr, flush=True
            )
        ratios = {
            way: sorted(mine / patient for mine, patient in zip(times, taken["patient"], strict=True))
            for way, times in taken.items()
        }
        results.append(
            {
                "groups": together,
                "seconds_per_group": {way: statistics.median(times) for way, times in taken.items()},
                "to_patient": {way: [statistics.median(each), each[0], each[-1]] for way, each in ratios.items()},
            }
        )
    print_result({"dtype": dtype, "results": results})


def shown(row: dict[str, str]) -> dict[str, str]:
    """Return the shown values of a synthetic registry row."""
    texts = {name: feature.shown(row[name]) for name, feature in synthetic.codebook().by_name.items() if row[name]}
    return {name: text for name, text in texts.items() if text is not None}


if __name__ == "__main__":
    typer.run(main)
