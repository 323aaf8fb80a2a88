"""What one patient contributes depends on no other: in bf16, with prompts of unequal length, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from client.grpo.counts import Rollouts
from client.grpo.rollout import decode, roll_out
from client.grpo.step import rollout_gradient
from client.privacy.mechanism import Exact, Private
from client.training.contribution import gradient_sum
from client.training.engine import Engine
from common import synthetic
from common.arrays import Integers, Vector
from common.config import PrivacyConfig, RunConfig
from common.decoding.attend import Places
from common.decoding.generate import Completions, generate
from common.decoding.shared import generate_shared
from common.lattice import to_lattice
from common.questions.answer import parse_answer, reward
from common.questions.prompt import prompt_tokens
from common.questions.question import Patient, Question, QuestionMaker
from tests.privacy_checks import Check
from tests.small import make_small_model, shown, small_config
from tests.tuned import in_one_batch

Contribute = Callable[[Engine, RunConfig, Sequence[Patient]], dict[str, bytes]]

PATIENTS = 6
PRIVACY = PrivacyConfig(clip_norm=0.5, noise_multiplier=4.0, delta=1e-5)
_KEPT: list[TemporaryDirectory[str]] = []
"""Temporary folders that live as long as the process."""


@cache
def model_folder() -> Path:
    """Return the folder of a small model, made once in a process."""
    torch.set_num_threads(1)
    _KEPT.append(TemporaryDirectory())
    return make_small_model(Path(_KEPT[-1].name))


@cache
def bf16() -> tuple[RunConfig, Engine]:
    """Return a run of the small model in bfloat16, at an adapter that is not zero."""
    config = small_config(
        model_folder(), grpo={"group_size": 16, "max_completion_tokens": 16}, federation={"sampling_rate": 1.0}
    )
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    engine = Engine(config, None, "cpu")
    generator = torch.Generator().manual_seed(7)
    engine.set_adapter((0.02 * torch.randn(engine.layout.size, generator=generator)).numpy())
    return config, engine


def unequal() -> list[Patient]:
    """Return patients of whom each has fewer values than the one before, so that their prompts differ in length."""
    rows = synthetic.registry("north", PATIENTS, seed=5)
    values = [{name: text for name, text in shown(row).items() if name in synthetic.CORE} for row in rows]
    return [
        Patient(row["patient_id"], dict(list(own.items())[: len(own) - 3 * i]))
        for i, (row, own) in enumerate(zip(rows, values, strict=True))
    ]


def check_isolation(contribute: Contribute) -> bool:
    """For every patient j: without j all others contribute the same bits as with j, and not all of them zeros."""
    config, engine = bf16()
    patients = unequal()
    everyone = contribute(engine, config, patients)
    assert set(everyone) == {patient.id for patient in patients}
    if not all(np.frombuffer(bits, dtype=np.int64).any() for bits in everyone.values()):
        return False
    for left_out in patients:
        others = contribute(engine, config, [patient for patient in patients if patient is not left_out])
        if any(others[name] != everyone[name] for name in others):
            return False
    return True


class Watched(Exact):
    """The exact mechanism, which keeps what each patient added to the sum."""

    def __init__(self, config: RunConfig, *when: int) -> None:
        super().__init__(config, *(when or (1, 0, 0)))
        self.added: dict[str, bytes] = {}

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        """Keep the patient's integers."""
        result = super().integers(gradient, patient)
        self.added[patient.id] = result.tobytes()
        return result


class Keyed(Private):
    """The private mechanism with repeatable randomness of each patient's own; it keeps what each added."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.added: dict[str, bytes] = {}
        self._key = "keyed"

    def sample(self, patients: Sequence[Patient]) -> list[Patient]:
        """Take all: the coins say nothing of who else is there."""
        return list(patients)

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        """Keep the patient's integers."""
        result = super().integers(gradient, patient)
        self.added[patient.id] = result.tobytes()
        return result


class Adaptive(Keyed):
    """Clips to the mean norm of the gradients so far."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._norms: list[float] = []

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        """Follow the patients that came before."""
        self._norms.append(float(np.linalg.norm(gradient)))
        self._privacy = self._privacy.model_copy(update={"clip_norm": float(np.mean(self._norms))})
        return super().integers(gradient, patient)


def exact(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Return what each patient adds to a site's sum without privacy."""
    mechanism = Watched(config)
    gradient_sum(engine, _maker(config), patients, config, mechanism)
    return mechanism.added


def private(
    engine: Engine, config: RunConfig, patients: Sequence[Patient], kind: type[Keyed] = Keyed
) -> dict[str, bytes]:
    """Return what each patient adds to a site's sum under differential privacy: clipped, rounded at random."""
    config = config.model_copy(update={"privacy": PRIVACY})
    mechanism = kind(config)
    gradient_sum(engine, _maker(config), patients, config, mechanism)
    return mechanism.added


def together(
    engine: Engine,
    config: RunConfig,
    patients: Sequence[Patient],
    *,
    contribute: Contribute = exact,
) -> dict[str, bytes]:
    """Return what each patient adds where patients are decoded with one another, two groups at a time."""
    grpo = config.grpo.model_copy(update={"decode": "together", "decode_groups": 2, "max_prompt_tokens": 600})
    return contribute(engine, config.model_copy(update={"grpo": grpo}), patients)


def _in_one_batch(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Decode everyone in one plain batch, padded to the longest prompt."""

    with patch("client.grpo.sampler.generate_shared", in_one_batch):
        return together(engine, config, patients)


def _random_by_place(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Draw a group's tokens by the random numbers of its place among the others."""

    def placed(model: torch.nn.Module, prompts: Any, *, uniforms: torch.Tensor, **options: Any) -> Completions:
        generator = torch.Generator().manual_seed(0)
        own = torch.rand(uniforms.shape, dtype=uniforms.dtype, generator=generator)
        return generate_shared(model, prompts, uniforms=own, **options)

    with patch("client.grpo.sampler.generate_shared", placed):
        return together(engine, config, patients)


def _left_over(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Let a row see all its places, with what an earlier row left behind its own words."""
    begin = Places.begin_step

    def begun(self: Places) -> None:
        begin(self)
        for seen in self.seen.values():
            seen.ranges = [(start, length, 0, self.shape.completion) for start, length, _, _ in seen.ranges]

    with patch.object(Places, "begin_step", begun):
        return together(engine, config, patients)


def _too_long(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Let a group see a place more than its prompt has, with what an earlier prompt left there."""
    take = Places.take

    def taken(self: Places, group: int, length: int) -> None:
        take(self, group, length + 1)

    with patch.object(Places, "take", taken):
        return together(engine, config, patients)


def _maker(config: RunConfig) -> QuestionMaker:
    return QuestionMaker(synthetic.codebook(), config.questions.view)


def questions_of(config: RunConfig, patient: Patient) -> list[Question]:
    """Return what a patient is asked in round 1."""
    stream = Exact(config, 1, 0, 0).stream("questions", patient)
    return _maker(config).draw(patient, config.questions.per_patient, stream)


def _rolled_out(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, Rollouts]:
    """Roll out each patient alone, as the real step does."""
    mechanism, rolled = Exact(config, 1, 0, 0), {}
    for patient in patients:
        asked, stream = questions_of(config, patient), mechanism.stream("rollout", patient)
        rollouts = roll_out(engine.sampler, engine.tokenizer, asked, config.grpo, stream)
        assert rollouts is not None
        rolled[patient.id] = rollouts
    return rolled


def _integers(engine: Engine, config: RunConfig, rolled: dict[str, Rollouts], factor: float = 1.0) -> dict[str, bytes]:
    """Return the lattice integers of each patient's rollouts, all gradients times a factor."""
    count, pad = config.questions.per_patient, engine.tokenizer.pad_token_id
    bits = {}
    for name, rollouts in rolled.items():
        gradient = rollout_gradient(engine.model, rollouts, config.grpo, per_patient=count, pad=pad)
        bits[name] = to_lattice((gradient * factor).numpy().astype(np.float64), config.lattice.bits).tobytes()
    return bits


def _by_tokens(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Divide by the tokens of the batch (dapo, bnpo), not by the longest that there may be."""
    rolled = _rolled_out(engine, config, patients)
    tokens = sum(int(rollouts.completions.mask.sum()) for rollouts in rolled.values())
    longest = config.questions.per_patient * config.grpo.group_size * config.grpo.max_completion_tokens
    return _integers(engine, config, rolled, longest / tokens)


def _mean(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Divide by how many patients there are."""
    return _integers(engine, config, _rolled_out(engine, config, patients), 1 / len(patients))


def _batch_scaled(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Divide the advantages by the standard deviation of the batch's rewards."""
    rolled = _rolled_out(engine, config, patients)
    deviation = torch.cat([rollouts.rewards.flatten() for rollouts in rolled.values()]).std() + 1e-4
    scaled = {name: replace(each, advantages=each.advantages / deviation) for name, each in rolled.items()}
    return _integers(engine, config, scaled)


def _decoded_together(engine: Engine, config: RunConfig, patients: Sequence[Patient]) -> dict[str, bytes]:
    """Decode all patients in one call, padded to the longest prompt; each row keeps the random numbers of its own."""
    grpo, mechanism = config.grpo, Exact(config, 1, 0, 0)
    asked = {patient.id: questions_of(config, patient) for patient in patients}
    prompts = {name: [prompt_tokens(question, engine.tokenizer) for question in own] for name, own in asked.items()}
    length, group = grpo.max_completion_tokens, grpo.group_size
    uniforms = [
        mechanism.stream("rollout", patient).uniforms(len(prompts[patient.id]) * group * length) for patient in patients
    ]
    done = generate(
        engine.policy.model,
        [prompt for own in prompts.values() for prompt in own],
        group_size=group,
        max_tokens=length,
        ends=(engine.tokenizer.eos_token_id,),
        pad=engine.tokenizer.pad_token_id,
        uniforms=torch.from_numpy(np.concatenate(uniforms)).view(-1, length),
        temperature=grpo.temperature,
    )
    rolled, start = {}, 0
    for name, own in asked.items():
        rows = slice(start, start + len(own) * group)
        start = rows.stop
        part = Completions(done.tokens[rows], done.mask[rows], done.logprobs[rows])
        texts = decode(engine.tokenizer, part)
        given = [(parse_answer(text, own[i // group].choices), own[i // group]) for i, text in enumerate(texts)]
        rewards = torch.tensor([reward(*one) for one in given]).view(-1, group)
        rolled[name] = Rollouts(prompts[name], part, texts, rewards, rewards - rewards.mean(-1, keepdim=True))
    return _integers(engine, config, rolled)


CHECKS = [
    Check(
        "isolation",
        partial(check_isolation, exact),
        {
            "the batch's tokens as normaliser (dapo, bnpo)": partial(check_isolation, _by_tokens),
            "mean over the actual batch": partial(check_isolation, _mean),
            "rewards scaled over the batch": partial(check_isolation, _batch_scaled),
            "unequal patients decoded together": partial(check_isolation, _decoded_together),
        },
    ),
    Check(
        "isolation: together",
        partial(check_isolation, together),
        {
            "unequal patients in one batch": partial(check_isolation, _in_one_batch),
            "random numbers of a place": partial(check_isolation, _random_by_place),
            "keys that an earlier row left": partial(check_isolation, _left_over),
            "a key that a longer prompt left": partial(check_isolation, _too_long),
        },
    ),
    Check("isolation: private, together", partial(check_isolation, partial(together, contribute=private))),
    Check(
        "isolation: private",
        partial(check_isolation, private),
        {"a clip norm that follows the gradients": partial(check_isolation, partial(private, kind=Adaptive))},
    ),
]
