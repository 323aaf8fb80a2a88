"""A patient from whom nothing can be learnt adds exactly nothing, and the round is like any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from scipy import stats

from client.grpo.counts import RolloutCounts
from client.grpo.log import StepWatch
from client.grpo.loss import advantages, agreed
from client.grpo.rollout import counts
from client.grpo.step import rollout_gradient
from client.node.handlers import HANDLERS, answer
from client.privacy.ledger import Ledger
from client.privacy.mechanism import Exact
from client.training.contribution import gradient_sum
from client.training.engine import Engine
from client.training.gradients import gradients, one_gradient
from client.training.log import read_log
from client.training.requests import contribute, layout
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Vector
from common.config import GrpoConfig, RunConfig
from common.decoding.generate import Completions, chosen_logprobs, sample_token
from common.errors import Code, FedReasonError
from common.messages.frames import reply_frame, task_frame
from common.messages.kinds import Contribution, Refusal, Task
from common.questions.question import Patient, QuestionMaker
from server.rounds.loop import run_rounds
from server.rounds.store import Checkpoint, RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.privacy_checks import FALSE_ALARM
from tests.privacy_checks.isolation import unequal
from tests.small import made_rollouts, small_config
from tests.tuned import SETTINGS, load, with_random_b

PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5}
TOGETHER: dict[str, Any] = {"decode": "together", "decode_groups": 2}
PROMPTS = [[5 + i for i in range(length)] for length in (9, 30, 17)]

passes = pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
decoded = pytest.mark.parametrize("decode", [{}, TOGETHER], ids=["plain", "together"])


class Silent:
    """A sampler that writes nothing: every completion is empty."""

    def sample(self, prompts: Sequence[list[int]], uniforms: torch.Tensor, *_: object) -> Completions:
        tokens = torch.zeros(uniforms.flatten(0, 1).shape, dtype=torch.long)
        return Completions(tokens, torch.zeros_like(tokens), torch.zeros(tokens.shape))


def reward_is(monkeypatch: pytest.MonkeyPatch, value: float | None) -> None:
    """Give every completion this reward; by turns 1 and 0 where None, so that every group differs."""
    turns = 0

    def reward(*_: object) -> float:
        nonlocal turns
        turns += 1
        return float(turns % 2) if value is None else value

    monkeypatch.setattr("client.grpo.rollout.reward", reward)


def any_adapter(size: int) -> Vector:
    return np.random.default_rng(5).normal(0, 0.1, size).astype(np.float32)


# --- One patient ---


@pytest.mark.parametrize("why", ["agree", "empty", "too long", "no prompt", "no question"])
@pytest.mark.parametrize("questions", [1, 3])
@decoded
@pytest.mark.parametrize("kl", [0.0, 0.05], ids=["no kl", "kl"])
@passes
def test_who_teaches_nothing_gives_zero_whatever_the_settings(
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpointing: bool,
    kl: float,
    decode: dict[str, Any],
    questions: int,
    why: str,
) -> None:
    grpo = {"kl": kl, "checkpointing": checkpointing, **decode}
    if why == "too long":
        grpo["max_prompt_tokens"] = 1
    config = small_config(small_model, grpo=grpo, questions={"per_patient": questions})
    engine, patients = Engine(config, None, "cpu"), unequal()[:2]
    engine.set_adapter(any_adapter(engine.layout.size))
    if why == "agree":
        reward_is(monkeypatch, 1.0)
    elif why == "empty":
        engine.sampler = Silent()
    elif why == "no prompt":
        monkeypatch.setattr("client.grpo.rollout.prompt_tokens", lambda *_: [])
    elif why == "no question":
        patients = [replace(patient, values={}) for patient in patients]
    watch = StepWatch(torch.device("cpu"), texts=True)
    maker = QuestionMaker(synthetic.codebook(), "core")
    done = list(gradients(engine, maker, patients, config, Exact(config, 1, 0, 0), watch))
    assert len(done) == len(patients)
    total = RolloutCounts()
    for gradient, counted in done:
        assert (gradient.dtype, gradient.shape) == (np.float32, (engine.layout.size,))
        if why == "agree" and kl:
            assert gradient.any() and np.isfinite(gradient).all(), "the divergence has a gradient of its own"
        else:
            assert not gradient.any()
        watch.differentiated(gradient)
        total += counted
    assert total.patients == 2
    entry = watch.entry(Task(config, 1, 0, None), 0, gradient, total)
    assert json.dumps(vars(entry), allow_nan=False)
    assert entry.not_finite == 0 and (entry.gradient_norm is None) == (why != "agree" or not kl)
    assert bool(entry.seconds_train) == (why == "agree" and kl > 0), "no pass is made for nothing"


@pytest.mark.parametrize("attention", ["dense", "parts"])
@pytest.mark.parametrize("kl", [0.0, 0.05], ids=["no kl", "kl"])
@pytest.mark.parametrize("blank", [[0], [1, 2], [0, 1, 2]])
@passes
def test_questions_without_an_answer_leave_the_others_as_they_are(
    small_model: Path, checkpointing: bool, blank: list[int], kl: float, attention: Any
) -> None:
    model = with_random_b(load(small_model)[0])
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": kl})
    rollouts = made_rollouts(PROMPTS, settings, vocabulary=500)
    mask = rollouts.completions.mask.clone()
    mask.view(3, -1)[blank] = 0
    some = replace(rollouts, completions=replace(rollouts.completions, mask=mask))
    kept = [number for number in range(3) if number not in blank]
    rows = [row for number in kept for row in range(4 * number, 4 * number + 4)]
    others = replace(
        rollouts,
        prompts=[PROMPTS[number] for number in kept],
        completions=Completions(*(tensor[rows] for tensor in vars(rollouts.completions).values())),
        advantages=rollouts.advantages[kept],
    )
    gradient = rollout_gradient(model, some, settings, per_patient=3, pad=0, attention=attention)
    alone = rollout_gradient(model, others, settings, per_patient=3, pad=0, attention=attention)
    assert torch.equal(gradient, alone) and gradient.any() == bool(kept)


@passes
def test_one_empty_completion_beside_others_counts_for_its_reward_alone(small_model: Path, checkpointing: bool) -> None:
    model = with_random_b(load(small_model)[0])
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing})
    rollouts = made_rollouts(PROMPTS[:1], settings, vocabulary=500)
    mask = rollouts.completions.mask.clone()
    mask[1] = 0
    one = replace(rollouts, completions=replace(rollouts.completions, mask=mask))
    gains = rollouts.advantages.clone()
    gains[0, 1] = 0
    other = replace(rollouts, advantages=gains)
    gradients_of = [rollout_gradient(model, each, settings, per_patient=1, pad=0) for each in (one, other)]
    assert torch.allclose(*gradients_of, atol=1e-5 * float(gradients_of[0].abs().max())) and gradients_of[0].any()


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 0.3, -0.7])
@pytest.mark.parametrize("scale", ["none", "group"])
def test_a_group_that_agrees_has_no_advantage_to_the_last_bit(value: float, scale: Any) -> None:
    rewards = torch.full((2, 7), value)
    rewards[1, 3] += 1
    assert agreed(rewards).tolist() == [True, False]
    gains = advantages(rewards, scale)
    assert not gains[0].any() and gains[1].all()
    settings = GrpoConfig(group_size=7, max_completion_tokens=4)
    rollouts = replace(made_rollouts(PROMPTS[:2], settings, vocabulary=9), rewards=rewards)
    assert counts(rollouts, ends=(1,)).zero_variance == 1


def test_a_group_of_one_which_always_agrees_is_no_run() -> None:
    with pytest.raises(ValueError, match="group_size"):
        GrpoConfig(group_size=1)


# --- A whole round ---


@pytest.mark.parametrize("protocol", ["fedsgd", "fedavg"])
@passes
@decoded
def test_a_constant_reward_changes_no_bit_of_the_adapter_in_a_round_and_a_varied_one_does(
    small_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    decode: dict[str, Any],
    checkpointing: bool,
    protocol: str,
) -> None:
    federation = {"protocol": protocol, "local_steps": 2 if protocol == "fedavg" else 1, "sampling_rate": 0.7}
    config = small_config(
        small_model,
        federation=federation | {"rounds": 1},
        grpo={"kl": 0.0, "checkpointing": checkpointing, **decode},
        simulation={"patients": 4},
    )
    sites = [Workplace(folder) for folder in prepare(config, synthetic.codebook(), tmp_path / "sites").values()]
    before = any_adapter(sites[0].engine(config).layout.size)

    def after(reward: float | None) -> Vector:
        reward_is(monkeypatch, reward)
        with RunStore.opened(tmp_path / str(reward), config) as store:
            store.save(Checkpoint(0, before, {}))
            adapter = run_rounds(config, LocalExchange(sites), store)
            assert (store.rounds()[0].counts or {})["rollouts"] > 0
        return adapter

    for constant in (0.0, 1.0, 0.3):
        assert after(constant).tobytes() == before.tobytes()
    assert not np.array_equal(after(None), before)


NOTHING = ("nobody", "agree", "empty", "not a number", "infinite")


@pytest.mark.parametrize("protocol", ["fedsgd", "fedavg"])
@pytest.mark.parametrize("decode", [{}, TOGETHER, {"top_p": 0.9}], ids=["plain", "together", "top-p"])
@passes
def test_a_private_round_without_a_usable_gradient_is_noised_and_charged_like_any_other(
    small_model: Path, tmp_path: Path, decode: dict[str, Any], checkpointing: bool, protocol: str
) -> None:
    config = private(small_model, protocol=protocol, checkpointing=checkpointing, kl=0.0, **decode)
    assert config.privacy is not None
    (folder,) = prepare(config, synthetic.codebook(), tmp_path).values()
    quiet(folder)
    site = Workplace(folder)
    size = site.engine(config).layout.size
    frames, charges = set(), []
    for number, why in enumerate(("usual", *NOTHING), start=1):
        with pytest.MonkeyPatch.context() as patch:
            reply = answer(folder, HANDLERS["train"], because(why, patch, site, config, number))
        assert isinstance(reply, Contribution), why
        frames.add(len(reply_frame(reply)))
        entry = Ledger.opened(folder).entries()[-1].release
        charges.append((entry.round, entry.steps, entry.sigma_units, entry.sensitivity_units, entry.q, entry.mechanism))
        if protocol == "fedsgd" and why != "usual":
            statistic = float(np.square(reply.total / config.privacy.sigma_units).sum())
            assert 2 * min(stats.chi2.cdf(statistic, size), stats.chi2.sf(statistic, size)) > FALSE_ALARM, why
    assert len(frames) == 1, "no message is longer or shorter than another"
    assert [charge[0] for charge in charges] == list(range(1, len(charges) + 1))
    assert len({charge[1:4] + charge[5:] for charge in charges}) == 1
    told = {line.round: line.not_finite for line in read_log(folder, config.name)}
    broken = [number for number, why in enumerate(("usual", *NOTHING), start=1) if why in NOTHING[3:]]
    assert all((told[number] > 0) == (number in broken) for number in told)


def private(small_model: Path, *, protocol: str = "fedsgd", **grpo: Any) -> RunConfig:
    return small_config(
        small_model,
        federation={
            "protocol": protocol,
            "local_steps": 2 if protocol == "fedavg" else 1,
            "sites": 1,
            "quorum": 1,
            "sampling_rate": 0.9,
            "rounds": 20,
        },
        grpo={"group_size": 2, "max_completion_tokens": 4, **grpo},
        privacy=PRIVACY,
        simulation={"hospitals": ["north"], "patients": 6},
    )


def quiet(folder: Path, metrics: str = "none") -> None:
    """Let nothing but the sum leave, and budget be no limit."""
    privacy = {"required": False, "min_sites": 1, "epsilon": 1e6}
    policy = {"metrics": metrics, "base_models": ["*"], "protocols": ["fedsgd", "fedavg"], "privacy": privacy}
    policy["patient"] = {"column": "patient_id"}
    (folder / "policy.toml").write_text(tomli_w.dumps(policy))


def because(why: str, patch: pytest.MonkeyPatch, site: Workplace, config: RunConfig, number: int) -> Task:
    """Have a round come to nothing for this reason, and return its task."""
    engine = site.engine(config)
    adapter = any_adapter(engine.layout.size)
    reward_is(patch, None)
    if why == "nobody":
        patch.setattr("client.privacy.mechanism.poisson_sample", lambda *_: [])
    elif why == "agree":
        reward_is(patch, 1.0)
    elif why == "empty":
        patch.setattr(engine, "sampler", Silent())
    elif why in ("not a number", "infinite"):
        bad = float("nan") if why == "not a number" else float("inf")
        whole = rollout_gradient

        def broken(*arguments: Any, **options: Any) -> torch.Tensor:
            gradient = whole(*arguments, **options)
            gradient[3] = bad
            return gradient

        patch.setattr("client.grpo.step.rollout_gradient", broken)
    return Task(config, number, 0, adapter)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_without_privacy_one_gradient_that_is_no_number_stops_the_site_s_round(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    config = small_config(small_model, federation={"sampling_rate": 1.0}, simulation={"patients": 6})
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    site, whole, calls = Workplace(folder), rollout_gradient, 0
    task = Task(config, 1, 0, any_adapter(site.engine(config).layout.size))

    def broken(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        gradient = whole(*arguments, **options)
        gradient[0] = bad if calls == 2 else gradient[0]
        return gradient

    monkeypatch.setattr("client.grpo.step.rollout_gradient", broken)
    assert answer(folder, HANDLERS["train"], task) == Refusal(folder.name, int(Code.LATTICE_RANGE))
    assert calls == 2
    with pytest.raises(FedReasonError, match="E601: A patient's gradient is not finite"):
        Exact(config, 1, 0, 0).integers(np.array([0, bad, 1], dtype=np.float32), Patient("p", {}))
    assert isinstance(answer(folder, HANDLERS["train"], task), Contribution), "and the next one goes on"


@pytest.mark.parametrize("top_p", [0.2, 0.9, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_give_some_token_and_no_error(bad: float, top_p: float) -> None:
    for logits in (torch.full((3, 5), bad), torch.tensor([[0.0, bad, 1.0, 2.0, 3.0]]).expand(3, -1)):
        tokens, _ = sample_token(logits, torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64), 1.0, top_p)
        assert ((tokens >= 0) & (tokens < 5)).all()
        assert chosen_logprobs(logits, tokens, 1.0, top_p).shape == (3,)


# --- One patient less ---


@pytest.mark.parametrize("metrics", ["none", "plain"])
@pytest.mark.parametrize("privacy", [None, PRIVACY], ids=["exact", "private"])
def test_a_patient_removed_changes_no_divisor_unit_sigma_or_length_of_a_message(
    small_model: Path, tmp_path: Path, privacy: dict[str, float] | None, metrics: str
) -> None:
    config = private(small_model).model_copy(update={"privacy": None}) if privacy is None else private(small_model)
    (folder,) = prepare(config, synthetic.codebook(), tmp_path).values()
    quiet(folder, metrics)
    everyone = [patient.id for patient in Workplace(folder).patients]
    seen = set()
    for number, without in enumerate(([], everyone[:1], everyone[3:4], everyone[1:], everyone), start=1):
        (folder / "excluded.txt").write_text("".join(f"{name}\n" for name in without))
        site = Workplace(folder)
        assert len(site.patients) == len(everyone) - len(without)
        size = site.engine(config).layout.size
        task = Task(config, number, 0, any_adapter(size))
        reply, agreed = contribute(site, task), layout(site, replace(task, adapter=None))
        ledger = [] if privacy is None else [vars(Ledger.opened(folder).entries()[-1].release)]
        stated = [{k: v for k, v in each.items() if k != "round"} for each in ledger]
        told = len(reply_frame(replace(reply, counts=None if metrics == "plain" else reply.counts)))
        seen.add(
            (told, len(reply_frame(agreed)), len(task_frame(task)), size, config.unit, config.divisor, str(stated))
        )
    assert len(seen) == 1


@decoded
@passes
def test_a_patient_removed_takes_its_own_integers_out_of_the_sum_and_nothing_else(
    small_model: Path, decode: dict[str, Any], checkpointing: bool
) -> None:
    config = small_config(
        small_model, grpo={"checkpointing": checkpointing, **decode}, federation={"sampling_rate": 1.0}
    )
    engine, maker = Engine(config, None, "cpu"), QuestionMaker(synthetic.codebook(), "core")
    engine.set_adapter(any_adapter(engine.layout.size))
    exact, patients = Exact(config, 1, 0, 0), unequal()[:4]

    def total(of: list[Patient]) -> np.ndarray:
        return gradient_sum(engine, maker, of, config, exact)[0]

    whole, own = total(patients), [total([patient]) for patient in patients]
    for number, integers in enumerate(own):
        less = total(patients[:number] + patients[number + 1 :])
        assert np.array_equal(whole - less, integers) and integers.any()
    if not decode:
        alone, _ = one_gradient(engine, maker, patients[0], config, exact)
        assert np.array_equal(exact.integers(alone, patients[0]), own[0])
