"""The 4-bit base: NF4 as its paper writes it, the same bits at every load and after every step, B in float32 on top."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import LlamaConfig, Phi3Config, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tests.paths import ROOT

pytest.importorskip("bitsandbytes")

from client.grpo import forked, packed
from client.grpo.counts import Rollouts
from client.grpo.rollout import roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.step import patient_gradient, rollout_gradient
from client.inspection.local_model import local_shape
from client.inspection.memory import estimate
from client.training.engine import Engine
from common import synthetic
from common.config import AdapterConfig, ModelConfig, RunConfig
from common.errors import Code, FedReasonError
from common.model.adapter import AdapterLayout, read_adapter, save_peft, trainable, write_adapter
from common.model.base import add_lora, load_base, manifest, public_signs
from common.model.policy import Policy
from common.stream import Stream
from server.reports.export import export_adapter
from server.rounds.store import Checkpoint, RunStore
from tests.small import make_small_tokenizer, small_config
from tests.tuned import SETTINGS, TEMPLATE, questions, with_random_b

pytestmark = pytest.mark.model
FAMILIES: dict[str, Any] = {"llama": LlamaConfig, "phi3 and phi4": Phi3Config}
LEVELS = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""The sixteen values of NF4: QLoRA (arXiv 2305.14314), appendix E."""


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random small model, its weights in float32, and of a tokenizer."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = make_small_tokenizer()
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = FAMILIES[request.param](
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=192,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def run_of(folder: Path) -> RunConfig:
    config = small_config(folder)
    model = ModelConfig(base=str(folder), dtype="bfloat16", quantization="nf4")
    return config.model_copy(update={"model": model})


def load(folder: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    base, tokenizer = load_base(run_of(folder).model)
    return with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), seed=0), 0.1), tokenizer


def packed_weights(model: torch.nn.Module) -> dict[str, Any]:
    return {name: weight for name, weight in model.named_parameters() if weight.dtype == torch.uint8}


def bits(model: torch.nn.Module) -> dict[str, bytes]:
    """Everything frozen, with the constants of what is packed."""
    frozen: dict[str, torch.Tensor] = {n: p for n, p in model.named_parameters() if "lora_B" not in n}
    frozen |= {f"{name} absmax": weight.quant_state.absmax for name, weight in packed_weights(model).items()}
    return {name: tensor.detach().contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in frozen.items()}


def rewarded(rollouts: Rollouts) -> Rollouts:
    """The same with random rewards: a random model earns none."""
    rewards = torch.rand(rollouts.rewards.shape, generator=torch.Generator().manual_seed(1))
    return dataclasses.replace(rollouts, rewards=rewards, advantages=rewards - rewards.mean(-1, keepdim=True))


def rolled_out(model: PeftModel, tokenizer: PreTrainedTokenizerBase) -> Rollouts:
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    rollouts = roll_out(sampler, tokenizer, questions(), SETTINGS, Stream.named("a"))
    assert rollouts is not None
    return rewarded(rollouts)


def test_weights_are_packed_as_the_paper_writes_it(folder: Path) -> None:
    base, _ = load_base(run_of(folder).model)
    whole, _ = load_base(ModelConfig(base=str(folder), dtype="bfloat16"))
    weights = packed_weights(base)
    for name, weight in weights.items():
        blocks = whole.get_parameter(name).float().numpy().reshape(-1, 64)
        largest = np.abs(blocks).max(1)
        codes = weight.numpy().reshape(-1)
        read = np.array(LEVELS, np.float32)[np.stack([codes >> 4, codes & 15], 1).reshape(blocks.shape)]
        assert np.array_equal(weight.quant_state.absmax.numpy(), largest)
        scaled = blocks / largest[:, None]
        nearest = np.abs(scaled[..., None] - np.array(LEVELS, np.float32)).min(-1)
        assert np.allclose(np.abs(scaled - read), nearest, atol=1e-6)
    linear = [n for n, m in whole.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert sorted(weights) == sorted(f"{name}.weight" for name in linear)
    others = {parameter.dtype for name, parameter in base.named_parameters() if name not in weights}
    assert others == {base.dtype} == {torch.bfloat16}


def test_the_adapter_is_that_of_an_unpacked_base(folder: Path) -> None:
    model, _ = load(folder)
    whole = add_lora(load_base(ModelConfig(base=str(folder)))[0], AdapterConfig(rank=4, alpha=8), seed=0)
    assert AdapterLayout.of(model) == AdapterLayout.of(whole)
    assert {parameter.dtype for parameter in trainable(model)} == {torch.float32}
    halves = {name: value for name, value in model.named_parameters() if "lora_A" in name}
    for name, value in halves.items():
        assert torch.equal(value, public_signs(0, name, *value.shape)) and not value.requires_grad
    assert len(halves) == len(trainable(model)) == len(packed_weights(model))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
def test_steps_leave_the_bits_of_the_base_and_the_dtype_of_the_adapter(folder: Path, checkpointing: bool) -> None:
    model, tokenizer = load(folder)
    before, settings = bits(model), SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": 0.05})
    for _ in range(3):
        gradient = rollout_gradient(model, rolled_out(model, tokenizer), settings, per_patient=3, pad=0)
        assert torch.isfinite(gradient).all()
        assert all(part.any() for part in gradient.split([parameter.numel() for parameter in trainable(model)]))
        write_adapter(model, read_adapter(model) - 0.1 * gradient.numpy())
        assert {parameter.dtype for parameter in trainable(model)} == {torch.float32}
    assert bits(model) == before


def test_a_patients_whole_step_runs_from_question_to_gradient(folder: Path) -> None:
    model, tokenizer = load(folder)
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    gradient, counts = patient_gradient(
        model, tokenizer, questions(), SETTINGS, per_patient=3, stream=Stream.named("a"), sampler=sampler
    )
    assert counts.rollouts == 12 and gradient.shape == (AdapterLayout.of(model).size,)


def test_both_training_passes_agree_with_each_other_and_with_the_rollout(folder: Path) -> None:
    model, tokenizer = load(folder)
    rollouts = rolled_out(model, tokenizer)
    done, kept = rollouts.completions, rollouts.completions.mask.bool()
    one = forked.completion_logprobs(model, rollouts.prompts, done, group_size=4, pad=tokenizer.pad_token_id)
    other = packed.completion_logprobs(model, rollouts.prompts, done, group_size=4)
    assert torch.allclose(one[kept], done.logprobs[kept], atol=0.1)
    assert torch.allclose(one[kept], other[kept], atol=0.1)
    ours, theirs = (
        torch.cat([part.flatten() for part in torch.autograd.grad(logprobs[kept].sum(), trainable(model))])
        for logprobs in (other, one)
    )
    assert 0 < (ours - theirs).norm() < 0.1 * theirs.norm()


def test_the_gradient_is_taken_at_the_values_that_the_packed_weights_stand_for(folder: Path) -> None:
    """Not at those of the file; peft rounds the adapter's part to bfloat16 on a packed layer, and not on another."""
    import bitsandbytes

    model, tokenizer = load(folder)
    rollouts = rolled_out(model, tokenizer)
    ours = rollout_gradient(model, rollouts, SETTINGS, per_patient=3, pad=0)
    base, _ = load_base(ModelConfig(base=str(folder), dtype="bfloat16"))
    whole = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), seed=0), 0.1)
    of_the_file = rollout_gradient(whole, rollouts, SETTINGS, per_patient=3, pad=0)
    with torch.no_grad():
        for name, weight in packed_weights(model).items():
            whole.get_parameter(name).copy_(bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state))
    unpacked = rollout_gradient(whole, rollouts, SETTINGS, per_patient=3, pad=0)
    assert (ours - unpacked).norm() < 0.05 * ours.norm() < 0.2 * (ours - of_the_file).norm()


def test_weights_that_no_block_divides_are_packed_too(small_model: Path) -> None:
    """Rows of 32: a block spans two of them."""
    model, tokenizer = load(small_model)
    assert torch.isfinite(rollout_gradient(model, rolled_out(model, tokenizer), SETTINGS, per_patient=3, pad=0)).all()


def test_two_loads_state_one_layout_and_rollouts_leave_it(folder: Path) -> None:
    config = run_of(folder)
    engine = Engine(config, None, "cpu")
    here = engine.layout_sha256()
    rolled_out(engine.model, engine.tokenizer)
    assert engine.layout_sha256() == Engine(config, None, "cpu").layout_sha256() == here
    whole = config.model_copy(update={"model": config.model.model_copy(update={"quantization": "none"})})
    assert Engine(whole, None, "cpu").layout_sha256() != here


def test_another_instruction_set_and_more_threads_pack_the_same_bits(small_model: Path) -> None:
    program = (
        "import sys, torch; torch.set_num_threads(2)\n"
        "from client.training.engine import Engine; from common.config import RunConfig\n"
        "print(torch.backends.cpu.get_cpu_capability())\n"
        "print(Engine(RunConfig.model_validate_json(sys.argv[1]), None, 'cpu').layout_sha256())"
    )
    config = run_of(small_model)
    done = subprocess.run(
        [sys.executable, "-c", program, config.model_dump_json()],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"ATEN_CPU_CAPABILITY": "default"}, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["DEFAULT", Engine(config, None, "cpu").layout_sha256()]


def test_the_layout_depends_on_the_constants_of_packed_weights(folder: Path) -> None:
    engine = Engine(run_of(folder), None, "cpu")
    here = engine.layout_sha256()
    next(iter(packed_weights(engine.model).values())).quant_state.absmax[-1] *= 2
    assert engine.layout_sha256() != here


def test_an_exported_adapter_loads_over_a_packed_base(folder: Path, tmp_path: Path) -> None:
    config = run_of(folder)
    base, _ = load_base(config.model)
    model = with_random_b(add_lora(base, config.adapter, config.seed))
    vector = read_adapter(model)
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(2, vector, {}))
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    assert json.loads((out / "fedreason.json").read_text())["quantization"] == "nf4"
    save_peft(model, vector, tmp_path / "live")
    ids, expected = torch.arange(2, 40)[None], model(torch.arange(2, 40)[None]).logits
    for adapter in (out, tmp_path / "live"):
        again = PeftModel.from_pretrained(load_base(config.model)[0], str(adapter))
        assert torch.equal(again(ids).logits, expected)


def test_the_estimate_counts_the_bytes_of_a_packed_model(folder: Path) -> None:
    run = run_of(folder)
    shape, model = local_shape(run, synthetic.codebook()), load_base(run.model)[0]
    assert shape is not None
    real = sum(parameter.nbytes for parameter in model.parameters())
    real += sum(weight.quant_state.absmax.nbytes for weight in packed_weights(model).values())
    at_work = 2 * max(inputs * outputs for inputs, outputs in shape.linear)
    assert estimate(shape, run, prompt=10, evaluates=False).weights == real + at_work


def test_the_files_of_a_packed_base_are_held_against_their_manifest(folder: Path) -> None:
    stated = run_of(folder).model.model_copy(update={"manifest_sha256": manifest(folder)})
    load_base(stated)
    with pytest.raises(FedReasonError) as refusal:
        load_base(stated.model_copy(update={"manifest_sha256": "0" * 64}))
    assert refusal.value.code == Code.MODEL_MANIFEST


def test_weights_that_come_packed_are_refused(folder: Path, tmp_path: Path) -> None:
    base, tokenizer = load_base(run_of(folder).model)
    base.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for config in (ModelConfig(base=str(tmp_path)), run_of(tmp_path).model):
        with pytest.raises(FedReasonError) as refusal:
            load_base(config)
        assert refusal.value.code == Code.MODEL_QUANTIZATION
