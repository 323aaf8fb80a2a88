"""Patients decoded together, as an engine does it: the trial before a private run, the adapter, how many groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.grpo import sampler as sampling
from client.grpo.log import UNWATCHED, Watch
from client.grpo.sampler import TransformersSampler
from client.grpo.selftest import isolated, require_isolated
from client.node.handlers import HANDLERS, answer
from client.privacy.ledger import Ledger
from client.training import engine as engines
from client.training.engine import Engine
from common import synthetic
from common.config import GrpoConfig, RunConfig
from common.decoding.attend import Shape
from common.decoding.generate import Completions, generate
from common.errors import Code, FedReasonError
from common.messages.kinds import Task
from common.questions.question import QuestionMaker
from common.stream import Stream
from simulation.prepare import prepare
from tests.small import private_config, small_config
from tests.tuned import in_one_batch

TOGETHER = GrpoConfig(group_size=3, max_prompt_tokens=80, max_completion_tokens=8, decode="together", decode_groups=2)
"""Six rows, which are no multiple of four."""
DTYPES = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def engine_of(small_model: Path, dtype: str) -> Engine:
    config = small_config(small_model)
    return Engine(config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})}), None, "cpu")


class Leaky(TransformersSampler):
    """Gives a prompt the random numbers of its place."""

    def sample(self, prompts: Any, uniforms: torch.Tensor, config: GrpoConfig, watch: Watch = UNWATCHED) -> Completions:
        shift = torch.arange(len(prompts))[:, None, None] / 1000
        return super().sample(prompts, (uniforms + shift) % 1, config, watch)


class Remembering(TransformersSampler):
    """Samples otherwise what begins as another prompt did that was read before it."""

    def sample(self, prompts: Any, uniforms: torch.Tensor, config: GrpoConfig, watch: Watch = UNWATCHED) -> Completions:
        begun = [prompt[:1] in [other[:1] for other in prompts[:place]] for place, prompt in enumerate(prompts)]
        shift = torch.tensor(begun)[:, None, None] / 1000
        return super().sample(prompts, (uniforms + shift) % 1, config, watch)


def test_the_trial_finds_what_is_kept_of_the_beginning_of_another_prompt(small_model: Path) -> None:
    engine = engine_of(small_model, "float32")
    remembering = Remembering.of(engine.policy.model, engine.tokenizer)
    assert not isolated(remembering, TOGETHER, vocabulary=len(engine.tokenizer), groups=2)


@DTYPES
def test_the_trial_holds_for_groups_and_not_for_who_looks_at_others(
    small_model: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small_model, dtype)
    engine.set_adapter(np.full(engine.layout.size, 0.01, dtype=np.float32))
    trial: Callable[..., bool] = partial(isolated, vocabulary=len(engine.tokenizer), groups=2)
    assert trial(engine.sampler, TOGETHER)
    leaky = Leaky.of(engine.policy.model, engine.tokenizer)
    assert not trial(leaky, TOGETHER)
    with pytest.raises(FedReasonError, match="E853"):
        require_isolated(leaky, TOGETHER, vocabulary=len(engine.tokenizer), groups=2)
    monkeypatch.setattr(sampling, "generate_shared", in_one_batch)
    assert not trial(engine.sampler, TOGETHER)


def test_a_private_run_is_refused_before_a_patient_is_asked_where_prompts_are_not_kept_apart(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = private_config(small_model, grpo={"decode": "together"})
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    size = engine_of(small_model, "float32").layout.size
    drawn: list[object] = []
    draw = QuestionMaker.draw
    monkeypatch.setattr(QuestionMaker, "draw", lambda *given: drawn.append(given) or draw(*given))
    codes: dict[type, set[object]] = {}
    for sampler in (Leaky, TransformersSampler):
        monkeypatch.setattr("client.training.engine.TransformersSampler", sampler)
        monkeypatch.setattr("client.training.engine._ENGINES", type(engines._ENGINES)())
        tasks = {kind: Task(config, int(kind == "train"), 0, np.zeros(size, np.float32)) for kind in HANDLERS}
        replies = [answer(folder, HANDLERS[kind], tasks[kind]) for kind in ("query", "query.ask", "train")]
        codes[sampler] = {getattr(reply, "code", None) for reply in replies}
        assert bool(drawn) == bool(Ledger.opened(folder).entries()) == (sampler is TransformersSampler)
    assert codes == {Leaky: {int(Code.ROLLOUTS_SHARED)}, TransformersSampler: {None}}


def test_an_engine_tries_once_and_keeps_its_adapter(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(small_model, "float32")
    adapter = np.linspace(-1, 1, engine.layout.size, dtype=np.float32)
    engine.set_adapter(adapter)
    tried: list[GrpoConfig] = []
    monkeypatch.setattr(
        "client.training.engine.require_isolated", lambda _, config, vocabulary, groups: tried.append(config)
    )

    def run(**changes: Any) -> RunConfig:
        return small_config(small_model).model_copy(update={"grpo": TOGETHER.model_copy(update=changes)})

    engine.require_isolated(run(decode="patient", decode_groups=None))
    assert tried == []
    for _ in range(2):
        engine.require_isolated(run())
    engine.require_isolated(run(group_size=4))
    assert len(tried) == 2
    assert np.array_equal(np.concatenate([p.detach().flatten() for p in trained(engine)]), adapter)


def trained(engine: Engine) -> list[torch.nn.Parameter]:
    return [p for _, p in sorted(engine.model.named_parameters()) if p.requires_grad]


@DTYPES
def test_a_new_adapter_stands_where_the_old_one_stood(small_model: Path, dtype: str) -> None:
    engine = engine_of(small_model, dtype)

    def places() -> list[int]:
        return [parameter.data_ptr() for parameter in (*engine.policy.model.parameters(), *engine.model.parameters())]

    before = places()
    engine.set_adapter(np.ones(engine.layout.size, dtype=np.float32))
    assert places() == before


@pytest.mark.parametrize(("longest", "shared"), [(199, False), (200, True)])
def test_on_a_cpu_long_prompts_stand_once_for_their_group_with_the_same_tokens(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, longest: int, shared: bool
) -> None:
    engine = engine_of(small_model, "float32")
    config = GrpoConfig(group_size=3, max_completion_tokens=8)
    prompts = [[5 + (7 * i + 3 * j) % 80 for j in range(length)] for i, length in enumerate((30, longest, 90))]
    uniforms = torch.from_numpy(Stream.named("long").uniforms(3 * 3 * 8)).view(3, 3, 8)
    seen: list[Shape] = []
    real = sampling.generate_shared
    monkeypatch.setattr(
        sampling,
        "generate_shared",
        lambda *given, shape, **rest: seen.append(shape) or real(*given, shape=shape, **rest),
    )
    done = engine.sampler.sample(prompts, uniforms, config)
    assert seen == [Shape(3, 3, longest, 8)] * shared
    plainly = generate(
        engine.policy.model, prompts, group_size=3, max_tokens=8, ends=(engine.tokenizer.eos_token_id,),
        pad=engine.tokenizer.pad_token_id, uniforms=uniforms.flatten(0, 1),
    )  # fmt: skip
    assert torch.equal(done.tokens, plainly.tokens) and torch.equal(done.mask, plainly.mask)
    assert torch.allclose(done.logprobs, plainly.logprobs, atol=1e-5)


def test_how_many_groups_are_decoded_together_follows_from_public_numbers(small_model: Path) -> None:
    config = small_config(small_model, grpo={"decode": "together"}, federation={"population": 90, "sites": 3})
    engine, federation = engine_of(small_model, "float32"), config.federation
    groups = engine.sized(config).decode_groups
    assert groups == max(1, -(-30 * federation.sampling_rate * config.questions.per_patient // 1))
    stated = small_config(small_model, grpo={"decode": "together", "decode_groups": 5})
    assert engine.sized(stated).decode_groups == 5
    alone = small_config(small_model)
    assert engine.sized(alone) == alone.grpo


@pytest.mark.parametrize("decode", ["slots", "free"])
def test_what_earlier_versions_took_names_the_way_out(small_model: Path, decode: str) -> None:
    with pytest.raises(ValueError, match='no more: write "together"'):
        small_config(small_model, grpo={"decode": decode, "decode_groups": 2})
