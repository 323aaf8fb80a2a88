"""A LoRA over the small model or another, its B not zero, and questions to ask it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from client.grpo.counts import RolloutCounts
from client.grpo.sampler import TransformersSampler
from client.grpo.step import patient_gradient
from common import synthetic
from common.arrays import Vector
from common.config import AdapterConfig, GrpoConfig
from common.decoding.attend import Shape
from common.decoding.generate import Completions, generate
from common.decoding.read import Read
from common.model.adapter import trainable
from common.model.base import add_lora, load_base
from common.model.policy import Policy
from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream
from tests.small import shown, small_config

SETTINGS = GrpoConfig(group_size=4, max_prompt_tokens=600, max_completion_tokens=8)
SIZES = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 48,
    "vocab_size": 300,
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [20, 21, 22, 23, 24]]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def load(folder: Path, dtype: str = "float32") -> tuple[PeftModel, PreTrainedTokenizerBase]:
    config = small_config(folder).model.model_copy(update={"dtype": dtype})
    base, tokenizer = load_base(config)
    return add_lora(base, AdapterConfig(rank=4, alpha=8), seed=0), tokenizer


def with_random_b(model: PeftModel, scale: float = 0.2) -> PeftModel:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def questions(count: int = 3) -> list[Question]:
    maker = QuestionMaker(synthetic.codebook(), "core")
    row = synthetic.registry("north", 1, seed=5)[0]
    return maker.draw(Patient(row["patient_id"], shown(row)), count, Stream.named("test"))


def asked(patients: int) -> list[list[Question]]:
    """Questions of patients, one to four each, their prompts of different lengths."""
    maker = QuestionMaker(synthetic.codebook(), "core")
    rows = synthetic.registry("west", patients, seed=8)
    return [
        maker.draw(Patient(row["patient_id"], shown(row)), 1 + number % 4, Stream.named("asked", number))
        for number, row in enumerate(rows)
    ]


def step_of(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, config: GrpoConfig = SETTINGS
) -> tuple[Vector, RolloutCounts]:
    """One patient's gradient, its rollouts sampled from the policy as in a run."""
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    return patient_gradient(
        model, tokenizer, questions(), config, per_patient=3, stream=Stream.named("a"), sampler=sampler
    )


def in_one_batch(
    model: torch.nn.Module, prompts: Sequence[list[int]], *, shape: Shape, reads: Sequence[Read] = (), **options: Any
) -> Completions:
    """Decode everyone in one plain batch, padded to the longest prompt, in place of groups."""
    return generate(model, prompts, group_size=shape.size, max_tokens=shape.completion, **options)
