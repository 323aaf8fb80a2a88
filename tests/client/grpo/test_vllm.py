"""Rollouts by vLLM: the real thing where it is installed, on the CPU or GPU there is, and else what surrounds it.

The real tests, in an environment with vLLM: `VLLM_CPU_KVCACHE_SPACE=1 python -m pytest tests/client/grpo/test_vllm.py`,
and on a GPU also `VLLM_BATCH_INVARIANT=1 python -m pytest -m gpu tests/client/grpo/test_vllm.py`. Their model has heads
that vLLM's attention takes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor

from client.grpo import packed
from client.grpo.selftest import TOLERANCE, isolated, require_adapter
from client.grpo.vllm import VllmSampler, completions, seed
from client.inspection.check import check_site
from client.site.config import load_site
from client.training.engine import Engine
from client.training.gate import check
from client.training.requests import layout
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Vector
from common.config import AdapterConfig, GrpoConfig, ModelConfig, RunConfig
from common.decoding.generate import Completions, sample_token
from common.errors import Code, FedReasonError
from common.messages.kinds import Task
from common.model.adapter import AdapterLayout, write_adapter
from common.model.base import add_lora, load_base
from common.stream import Stream
from simulation.prepare import prepare
from tests.small import make_small_model, small_config

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
GRPO = GrpoConfig(group_size=4, temperature=0.7, max_completion_tokens=8, max_prompt_tokens=600)
PRIVACY = {"clip_norm": 0.1, "noise_multiplier": 1.0, "delta": 1e-3}
PROMPTS = [[5 + (7 * i + 3 * j) % 400 for j in range(length)] for i, length in enumerate((300, 40, 170))]

absent = pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
real = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@absent
def test_a_site_without_vllm_says_how_it_is_installed(small_model: Path) -> None:
    with pytest.raises(FedReasonError, match="pip install") as refusal:
        Engine(small_config(small_model), None, "cpu", "vllm")
    assert refusal.value.code == Code.ROLLOUTS_UNAVAILABLE


def test_a_private_run_is_refused_without_the_batch_invariant_mode(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (None, "0"):
        monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
        if value is not None:
            monkeypatch.setenv("VLLM_BATCH_INVARIANT", value)
        with pytest.raises(FedReasonError, match="VLLM_BATCH_INVARIANT=1") as refusal:
            Engine(small_config(small_model, privacy=PRIVACY), None, "cpu", "vllm")
        assert refusal.value.code == Code.ROLLOUTS_SHARED
    Engine(small_config(small_model, privacy=PRIVACY), None, "cpu")


def site_that_wants_vllm(config: RunConfig, folder: Path) -> Path:
    site = prepare(config, synthetic.codebook(), folder)["north"]
    path = site / "site.toml"
    path.write_text('rollouts = "vllm"\n' + path.read_text())
    return site


def test_a_site_refuses_a_private_run_before_it_loads_anything(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    config = small_config(small_model, privacy={**PRIVACY, "delta": 1e-5})
    site = Workplace(site_that_wants_vllm(config, tmp_path))
    monkeypatch.setattr(Workplace, "engine", None)
    with pytest.raises(FedReasonError) as refusal:
        layout(site, Task(config, 0, 0, None))
    assert refusal.value.code == Code.ROLLOUTS_SHARED
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    check(site, Task(config, 0, 0, None))


@absent
def test_what_a_site_chose_reaches_its_engine_and_its_check(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    folder = site_that_wants_vllm(config, tmp_path)
    with pytest.raises(FedReasonError) as refusal:
        layout(Workplace(folder), Task(config, 0, 0, None))
    assert refusal.value.code == Code.ROLLOUTS_UNAVAILABLE
    found = check_site(folder, load_site(folder), None, lambda line: None)
    assert {line.name: line.code for line in found.lines}["rollouts"] == Code.ROLLOUTS_UNAVAILABLE


def test_every_row_of_randomness_gives_a_seed_of_its_own() -> None:
    rows = torch.from_numpy(Stream.named("rows").uniforms(3000)).view(1000, 3)
    assert len({seed(row) for row in rows}) == 1000
    assert all(0 <= seed(row) < 2**63 for row in rows)
    assert seed(rows[5]) == seed(rows[5].clone())
    changed = rows[5].clone()
    changed[-1] = np.nextafter(float(changed[-1]), 1)
    assert seed(changed) != seed(rows[5]), "all of the row counts"


def test_outputs_become_rows_with_their_end_and_nothing_behind_it() -> None:
    """Translation alone: the outputs are stand-ins of the form that vLLM documents, and vLLM is not run."""

    def output(tokens: list[int], logprobs: list[float]) -> SimpleNamespace:
        told = zip(tokens, logprobs, strict=True)
        places = [
            {9: SimpleNamespace(logprob=-9.0), token: SimpleNamespace(logprob=logprob)} for token, logprob in told
        ]
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(tokens), logprobs=places)])

    done = completions([output([4, 5, 1], [-0.5, -1.0, -0.25]), output([7], [-2.0])], 4, 0, torch.device("cpu"))
    assert done.tokens.tolist() == [[4, 5, 1, 0], [7, 0, 0, 0]]
    assert done.mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert done.logprobs.tolist() == [[-0.5, -1.0, -0.25, 0.0], [-2.0, 0.0, 0.0, 0.0]]
    assert (done.tokens.dtype, done.mask.dtype, done.logprobs.dtype) == (torch.int64, torch.int64, torch.float32)


def test_a_group_finds_its_own_cached_prompt_and_no_other_group_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of vLLM, which is not run: a salt for each prompt, also where two are the same."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(VllmSampler, "_answers", lambda self, requests, parameters: asked.extend(requests) or [])
    monkeypatch.setattr("client.grpo.vllm.sampling", lambda *_: None)
    sampler = object.__new__(VllmSampler)
    vars(sampler).update(
        _llm=SimpleNamespace(reset_prefix_cache=lambda: True), _model=None, _asleep=False, _sleeps=False, _ends=(),
        _pad=0, _device=torch.device("cpu"),
    )  # fmt: skip
    prompts = [[5, 6, 7], [5, 6, 7], [5, 6, 8]]
    drawn = torch.from_numpy(Stream.named("salts").uniforms(3 * 4 * 8)).view(3, 4, 8)
    sampler.sample(prompts, drawn, GRPO)
    salts = [[request["cache_salt"] for request in asked[start : start + 4]] for start in (0, 4, 8)]
    assert [len(set(group)) for group in salts] == [1, 1, 1]
    assert len({group[0] for group in salts}) == 3 and [each["prompt_token_ids"] for each in asked[::4]] == prompts


def adapted(folder: Path, dtype: str) -> PeftModel:
    base, _ = load_base(ModelConfig(base=str(folder), dtype=dtype))
    return add_lora(base, AdapterConfig(rank=4, alpha=8), 0)


def bits(model: PeftModel) -> list[bytes]:
    frozen = (p for _, p in sorted(model.named_parameters()) if not p.requires_grad)
    return [p.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() for p in frozen]


def random_adapter(size: int, name: str, scale: float = 0.2) -> Vector:
    return (scale * (Stream.named(name).uniforms(size) - 0.5)).astype(np.float32)


def test_an_adapter_that_is_handed_over_twenty_times_leaves_the_base_as_it_was(
    small_model: Path, tmp_path: Path
) -> None:
    model = adapted(small_model, "bfloat16")
    before, size = bits(model), AdapterLayout.of(model).size
    for number in range(20):
        write_adapter(model, random_adapter(size, f"step {number}"))
        model.save_pretrained(tmp_path, save_embedding_layers=False)
    assert bits(model) == before


def test_merging_into_the_live_base_and_out_again_moves_it(small_model: Path) -> None:
    """What TRL's weight sync does to a PeftModel, and the reason why it is not used."""
    model = adapted(small_model, "bfloat16")
    before, size = bits(model), AdapterLayout.of(model).size
    for number in range(20):
        write_adapter(model, random_adapter(size, f"step {number}"))
        model.merge_adapter()
        model.unmerge_adapter()
    assert bits(model) != before


def test_an_early_update_folded_into_bfloat16_is_mostly_rounding(small_model: Path) -> None:
    """The other reason: what would be sampled is not the policy that is trained."""
    model = adapted(small_model, "bfloat16")
    write_adapter(model, random_adapter(AdapterLayout.of(model).size, "early", 3e-4))
    for module in model.modules():
        if hasattr(module, "get_delta_weight"):
            weight, update = module.get_base_layer().weight.float(), module.get_delta_weight("default").float()
            lost = (weight + update).bfloat16().float() - weight - update
            assert lost.norm() > 0.5 * update.norm()
            beside = (
                update
                - module.lora_B["default"].weight.bfloat16().float()
                @ module.lora_A["default"].weight.bfloat16().float()
                * module.scaling["default"]
            )
            assert beside.norm() < 0.01 * update.norm(), "what is lost of an adapter beside the base"


def run_of(folder: Path, dtype: str) -> RunConfig:
    config = small_config(folder, grpo=GRPO.model_dump(exclude_none=True))
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_model(tmp_path_factory.mktemp("wide"), hidden_size=128)


@pytest.fixture(scope="module", params=["bfloat16"] if DEVICE == "cuda" else ["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest, wide_model: Path) -> Iterator[Engine]:
    """An engine that vLLM samples for: it has passed its self-test."""
    yield Engine(run_of(wide_model, request.param), None, DEVICE, "vllm")


def uniforms(name: str, prompts: int = len(PROMPTS), group: int = 4, tokens: int = 8) -> Tensor:
    return torch.from_numpy(Stream.named(name).uniforms(prompts * group * tokens)).view(prompts, group, tokens)


def trained_logprobs(engine: Engine, done: Completions) -> Tensor:
    with torch.no_grad():
        return packed.completion_logprobs(
            engine.model, PROMPTS, done, group_size=GRPO.group_size, temperature=GRPO.temperature
        )


def tolerance(engine: Engine) -> float:
    return TOLERANCE[str(engine.model.get_base_model().dtype).removeprefix("torch.")]


@real
def test_each_adapter_is_sampled_from_and_the_base_stays_as_it_was(engine: Engine) -> None:
    before = bits(engine.model)
    for number in range(20):
        engine.set_adapter(random_adapter(engine.layout.size, f"step {number}", 0.1 * (number % 5)))
        done = engine.sampler.sample(PROMPTS, uniforms("draws"), GRPO)
        kept = done.mask.bool()
        gap = (done.logprobs - trained_logprobs(engine, done))[kept].abs()
        assert float(gap.mean()) < tolerance(engine)
    assert bits(engine.model) == before
    assert {p.dtype for p in engine.model.parameters() if p.requires_grad} == {torch.float32}


@real
def test_completions_follow_from_their_uniform_numbers_alone(engine: Engine) -> None:
    engine.set_adapter(random_adapter(engine.layout.size, "some"))
    one, again = (engine.sampler.sample(PROMPTS, uniforms("draws"), GRPO) for _ in range(2))
    assert torch.equal(one.tokens, again.tokens)
    other = engine.sampler.sample(PROMPTS, uniforms("others"), GRPO)
    assert not torch.equal(one.tokens, other.tokens)
    groups = {tuple(map(tuple, group.tolist())) for group in one.tokens.split(GRPO.group_size)}
    assert any(len(set(group)) > 1 for group in groups), "a group is not one completion G times"


@real
def test_tokens_are_drawn_as_the_policy_says(engine: Engine) -> None:
    """The prompt's length divides vLLM's token budget: on the CPU it cannot cut a prompt whose request has a seed."""
    config, prompt = GRPO.model_copy(update={"group_size": 2000, "max_completion_tokens": 1}), list(range(200, 216))
    engine.set_adapter(random_adapter(engine.layout.size, "some"))
    done = engine.sampler.sample([prompt], uniforms("many", 1, 2000, 1), config)
    with torch.no_grad():
        logits = engine.model(input_ids=torch.tensor([prompt], device=engine.model.device)).logits[0, -1]
    expected = torch.softmax(logits.float().cpu() / config.temperature, -1)
    seen = torch.bincount(done.tokens[:, 0].cpu(), minlength=len(expected)) / 2000
    drawn = sample_token(expected.log().repeat(2000, 1), uniforms("ours", 1, 2000, 1)[0, :, 0], 1.0)[0]
    ours = torch.bincount(drawn, minlength=len(expected)) / 2000
    assert 0.02 < float(expected.max()) < 0.98
    assert float((seen - expected).abs().sum()) < 1.5 * float((ours - expected).abs().sum()) + 0.02


@real
def test_an_end_token_ends_a_completion_and_is_part_of_it(engine: Engine) -> None:
    engine.set_adapter(np.zeros(engine.layout.size, dtype=np.float32))
    done, eos = engine.sampler.sample(PROMPTS, uniforms("ends"), GRPO), engine.tokenizer.eos_token_id
    lengths = done.mask.sum(1)
    for row, length in enumerate(lengths.tolist()):
        kept = done.tokens[row, :length].tolist()
        assert eos not in kept[:-1]
        assert kept[-1] == eos or length == GRPO.max_completion_tokens
        assert not done.logprobs[row, length:].any()
        assert (done.tokens[row, length:] == engine.tokenizer.pad_token_id).all()


@real
def test_a_sampler_that_is_not_told_of_a_new_adapter_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VllmSampler, "refresh", lambda self: None)
    with pytest.raises(FedReasonError) as refusal, torch.no_grad():
        require_adapter(
            engine.sampler,
            engine.set_adapter,
            partial(packed.completion_logprobs, engine.model, group_size=4, temperature=0.7),
            GRPO,
            size=engine.layout.size,
            vocabulary=len(engine.tokenizer),
            groups=1,
            tolerance=tolerance(engine),
        )
    assert refusal.value.code == Code.ROLLOUTS_ADAPTER


@real
def test_an_adapter_larger_than_vllm_has_room_for_is_refused(wide_model: Path) -> None:
    config = run_of(wide_model, "bfloat16").model_copy(update={"adapter": AdapterConfig(rank=513)})
    with pytest.raises(FedReasonError, match="513") as refusal:
        Engine(config, None, DEVICE, "vllm")
    assert refusal.value.code == Code.ROLLOUTS_UNAVAILABLE


@real
@on_gpu
@pytest.mark.gpu
def test_a_sleeping_engine_leaves_the_memory_to_the_training_pass(engine: Engine) -> None:
    free, whole = torch.cuda.mem_get_info()
    engine.sampler.sample(PROMPTS, uniforms("draws"), GRPO)
    torch.cuda.empty_cache()
    assert abs(torch.cuda.mem_get_info()[0] - free) < 0.02 * whole
    assert free > 0.8 * whole


@real
def test_no_more_rows_are_sampled_at_once_than_were_tried(engine: Engine) -> None:
    config = run_of(Path(engine.model.get_base_model().name_or_path), "float32")
    assert engine.groups(config) == config.questions.per_patient
    running = engine.sampler._llm.llm_engine.vllm_config.scheduler_config  # type: ignore[attr-defined]
    assert running.max_num_seqs == engine.groups(config) * GRPO.group_size


@real
@on_gpu
@pytest.mark.gpu
@pytest.mark.skipif(os.environ.get("VLLM_BATCH_INVARIANT") != "1", reason="VLLM_BATCH_INVARIANT is not 1")
def test_in_its_batch_invariant_mode_prompts_are_isolated(engine: Engine) -> None:
    assert isolated(engine.sampler, GRPO, vocabulary=len(engine.tokenizer), groups=20)


@real
@on_gpu
@pytest.mark.gpu
def test_a_float32_model_is_refused_on_a_gpu(wide_model: Path) -> None:
    with pytest.raises(FedReasonError, match="bfloat16") as refusal:
        Engine(run_of(wide_model, "float32"), None, DEVICE, "vllm")
    assert refusal.value.code == Code.ROLLOUTS_UNAVAILABLE


def test_a_quantised_base_is_refused_since_vllm_would_sample_from_another_one(small_model: Path) -> None:
    config = run_of(small_model, "bfloat16")
    model = config.model.model_copy(update={"quantization": "nf4"})
    with pytest.raises(FedReasonError, match="nf4") as refusal:
        Engine(config.model_copy(update={"model": model}), None, "cpu", "vllm")
    assert refusal.value.code == Code.ROLLOUTS_UNAVAILABLE
