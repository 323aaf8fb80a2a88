"""What a step tells of itself: the numbers of its log are those of the step, and they change no bit of it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.grpo.counts import Rollouts
from client.grpo.log import StepWatch
from client.grpo.rollout import roll_out
from client.privacy.mechanism import Exact
from client.training.contribution import gradient_sum
from client.training.log import read_log
from client.training.requests import contribute
from client.training.workplace import Workplace
from common.config import RunConfig
from common.messages.kinds import Task
from common.model.base import without_adapter
from tests.client.training.tasks import opened, task_of
from tests.small import PRIVACY, small_config

COUNTS = (
    "patients",
    "questions",
    "rollouts",
    "reward",
    "zero_variance",
    "unboxed",
    "disagreeing",
    "too_long",
    "truncated",
    "tokens",
)


@pytest.fixture
def config(small_model: Path) -> RunConfig:
    return small_config(small_model, federation={"sampling_rate": 0.7})


def rolled_out(site: Workplace, task: Task) -> list[Rollouts]:
    """Return the rollouts of a round again, by patient."""
    config, engine, exact = task.config, site.engine(task.config), Exact(task.config, task.round, 0, task.attempt)
    assert task.adapter is not None
    engine.set_adapter(task.adapter)
    done = []
    for patient in exact.sample(site.training(config)):
        asked = site.maker(config).draw(patient, config.questions.per_patient, exact.stream("questions", patient))
        stream = exact.stream("rollout", patient)
        rollouts = roll_out(engine.sampler, engine.tokenizer, asked, config.grpo, stream)
        assert rollouts is not None
        done.append(rollouts)
    return done


def divergence(site: Workplace, config: RunConfig, done: list[Rollouts]) -> float:
    """Mean divergence from the base by token, every completion read in a row of its own."""
    model, terms = site.engine(config).model, []
    for rollouts in done:
        for row, (tokens, mask) in enumerate(zip(rollouts.completions.tokens, rollouts.completions.mask, strict=True)):
            prompt, length = rollouts.prompts[row // config.grpo.group_size], int(mask.sum())
            ids = torch.tensor([[*prompt, *tokens[:length].tolist()]])

            def logprobs(ids: torch.Tensor = ids, start: int = len(prompt)) -> torch.Tensor:
                every = torch.log_softmax(model(input_ids=ids).logits[0, start - 1 : -1].double(), -1)
                return every.gather(-1, ids[0, start:, None])[:, 0]

            with torch.no_grad():
                mine = logprobs()
                with without_adapter(model):
                    gap = logprobs() - mine
            terms.append(gap.exp() - gap - 1)
    return float(torch.cat(terms).mean())


def test_a_line_tells_what_happened_in_the_round(config: RunConfig, tmp_path: Path) -> None:
    site = opened(tmp_path, config)
    task = task_of(site, config, number=2, attempt=1)
    counts = contribute(site, task).counts
    (line,) = read_log(site.folder, config.name)
    assert counts is not None
    assert (line.round, line.step, line.attempt, line.config) == (2, 0, 1, config.sha256)
    assert (line.patients, line.questions, line.rollouts) == tuple(counts[k] for k in COUNTS[:3])
    assert line.patients > 3
    assert line.reward == counts["reward"] / counts["rollouts"]
    assert line.zero_variance == counts["zero_variance"] / counts["questions"]
    for share in ("unboxed", "disagreeing", "truncated"):
        assert getattr(line, share) == counts[share] / counts["rollouts"]
    done = rolled_out(site, task)
    prompts = [len(prompt) for rollouts in done for prompt in rollouts.prompts]
    lengths = [int(mask.sum()) for rollouts in done for mask in rollouts.completions.mask]
    assert (line.prompt_tokens, line.prompt_longest) == (np.mean(prompts), max(prompts))
    assert (line.completion_tokens, line.completion_longest) == (np.mean(lengths), max(lengths))
    assert line.kl == pytest.approx(divergence(site, config, done), rel=1e-4)
    assert line.kl > 1e-3
    assert line.adapter_norm == pytest.approx(float(np.linalg.norm(task.adapter)))  # type: ignore[arg-type]
    assert line.clipped is None and line.device == "cpu"
    assert line.gradient_norm_largest is not None and line.gradient_norm is not None
    assert 0 < line.gradient_norm <= line.gradient_norm_largest
    assert line.peak_bytes is not None and line.peak_bytes > 50e6


def test_without_a_weight_no_divergence_is_computed_or_told(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, grpo={"kl": 0.0})
    site = opened(tmp_path, config)
    contribute(site, task_of(site, config))
    assert read_log(site.folder, config.name)[0].kl is None


def test_a_round_in_which_nobody_is_sampled_has_its_line(config: RunConfig, tmp_path: Path) -> None:
    seldom = config.federation.model_copy(update={"sampling_rate": 1e-9})
    config = config.model_copy(update={"federation": seldom})
    site = opened(tmp_path, config)
    contribute(site, task_of(site, config))
    (line,) = read_log(site.folder, config.name)
    assert (line.patients, line.rollouts, line.reward, line.kl, line.speed_train) == (0, 0, None, None, None)


def test_every_local_step_has_a_line_and_later_ones_start_from_a_moved_adapter(
    small_model: Path, tmp_path: Path
) -> None:
    config = small_config(small_model, federation={"protocol": "fedavg", "local_steps": 3, "sampling_rate": 0.7})
    site = opened(tmp_path, config)
    contribute(site, replace(task_of(site, config), adapter=np.zeros(site.engine(config).layout.size, np.float32)))
    lines = read_log(site.folder, config.name)
    norms = [line.adapter_norm or 0.0 for line in lines]
    assert [line.step for line in lines] == [0, 1, 2]
    assert norms[0] == 0 < norms[1] < norms[2]


@pytest.mark.parametrize(("clip_norm", "clipped"), [(1e-20, 1.0), (1e6, 0.0)])
def test_the_clip_share_is_of_the_patients_beyond_the_norm(
    small_model: Path, tmp_path: Path, clip_norm: float, clipped: float
) -> None:
    config = small_config(small_model, federation={"sampling_rate": 1.0}, privacy={**PRIVACY, "clip_norm": clip_norm})
    site = opened(tmp_path, config)
    reply = contribute(site, task_of(site, config))
    (line,) = read_log(site.folder, config.name)
    assert line.clipped == clipped
    assert reply.counts is not None and set(reply.counts) == set(COUNTS), "what may leave has not grown"


@pytest.mark.parametrize("decode", ["patient", "together"])
def test_stages_are_told_apart_and_fit_into_the_step(small_model: Path, tmp_path: Path, decode: str) -> None:
    grpo = {"decode": decode, "decode_groups": None if decode == "patient" else 1}
    config = small_config(small_model, federation={"sampling_rate": 0.7}, grpo=grpo)
    site = opened(tmp_path, config)
    model = site.engine(config).policy.model
    waits = {"prefill": 0.05, "decode": 0.01}
    passes = dict.fromkeys(waits, 0)

    def slow(module: torch.nn.Module, given: object, named: dict[str, torch.Tensor]) -> None:
        stage = "prefill" if named["input_ids"].size(1) > 1 else "decode"
        passes[stage] += 1
        time.sleep(waits[stage])

    slowed = model.register_forward_pre_hook(slow, with_kwargs=True)
    try:
        contribute(site, task_of(site, config))
    finally:
        slowed.remove()
    (line,) = read_log(site.folder, config.name)
    stages = [line.seconds_prefill or 0.0, line.seconds_decode or 0.0, line.seconds_train or 0.0]
    assert passes["prefill"] == (line.patients if decode == "patient" else line.questions) < passes["decode"]
    assert stages[0] > waits["prefill"] * passes["prefill"]
    assert stages[1] > waits["decode"] * passes["decode"] > 0
    assert stages[2] > 0
    assert line.seconds is not None and sum(stages) < line.seconds
    assert line.prompt_tokens is not None and line.speed_prefill is not None
    assert line.speed_prefill * stages[0] == pytest.approx(line.prompt_tokens * line.questions)
    assert not model._forward_hooks


@pytest.mark.parametrize("decode", ["patient", "together"])
def test_watching_changes_no_bit(small_model: Path, tmp_path: Path, decode: str) -> None:
    config = small_config(
        small_model,
        federation={"sampling_rate": 0.7},
        grpo={"decode": decode, "decode_groups": None if decode == "patient" else 3},
    )
    site = opened(tmp_path, config)
    task = task_of(site, config)
    engine, maker, patients = site.engine(config), site.maker(config), site.training(config)
    assert task.adapter is not None
    engine.set_adapter(task.adapter)
    watch = StepWatch(torch.device("cpu"), texts=True)
    alone = gradient_sum(engine, maker, patients, config, Exact(config, 1, 0, 0))
    watched = gradient_sum(engine, maker, patients, config, Exact(config, 1, 0, 0), watch)
    other = gradient_sum(engine, maker, patients, config, Exact(config, 2, 0, 0), watch)
    assert np.array_equal(alone[0], watched[0]) and alone[1] == watched[1]
    assert not np.array_equal(alone[0], other[0])
    assert len(watch.groups) == watched[1].questions + other[1].questions
