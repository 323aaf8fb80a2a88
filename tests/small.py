"""A random small model and small runs that tests share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from client.grpo.counts import Rollouts
from client.grpo.loss import advantages
from common import synthetic
from common.config import GrpoConfig, RunConfig
from common.decoding.generate import Completions, left_pad, positions
from common.questions.prompt import prompt_tokens, question_text
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from common.tiny.network import make_tokenizer

PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5}


def make_small_tokenizer() -> PreTrainedTokenizerFast:
    """Return the embedded model's kind of tokenizer, trained on a few synthetic questions."""
    maker = QuestionMaker(synthetic.codebook(), "core")
    texts = []
    for row in synthetic.registry("north", 40, seed=9):
        patient = Patient(row["patient_id"], shown(row))
        drawn = maker.draw(patient, 3, Stream.named("text", patient.id))
        texts += [question_text(question) + " \\boxed{A} \\boxed{B}" for question in drawn]
    return make_tokenizer(texts, 512)


def shown(row: dict[str, str]) -> dict[str, str]:
    """Shown values of a synthetic registry row."""
    texts = {name: feature.shown(row[name]) for name, feature in synthetic.codebook().by_name.items() if row[name]}
    return {name: text for name, text in texts.items() if text is not None}


def small_sizes(tokenizer: PreTrainedTokenizerFast, **changes: Any) -> dict[str, Any]:
    """Return what a configuration of any family needs for a model of two narrow layers; `changes` come over it."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": 0.1,
        **changes,
    }


def make_small_model(folder: Path, hidden_size: int = 32) -> Path:
    """Save a two-layer Llama with two heads that has learnt to box a random letter, and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = make_small_tokenizer()
    config = LlamaConfig(**small_sizes(tokenizer, hidden_size=hidden_size, tie_word_embeddings=True))
    model = LlamaForCausalLM(config)
    teach_format(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def teach_format(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int = 60) -> None:
    """Train a few steps on real prompts followed by ` \\boxed{<any letter>}`, so that rewards differ within a group."""
    stream = Stream.named("format")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    maker = QuestionMaker(synthetic.codebook(), "core")
    patients = [Patient(row["patient_id"], shown(row)) for row in synthetic.registry("south", 8 * steps, seed=9)]
    boxes = [[*tokenizer(f" \\boxed{{{letter}}}")["input_ids"], tokenizer.eos_token_id] for letter in "ABCDE"]
    for step in range(steps):
        batch = [q for patient in patients[8 * step : 8 * step + 8] for q in maker.draw(patient, 1, stream)]
        rows = [prompt_tokens(question, tokenizer) + boxes[stream.below(5)] for question in batch]
        ids, mask = left_pad(rows, 0)
        labels = ids.clone()
        labels[:, : -len(boxes[0])] = -100
        model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def small_config(model: Path, **changes: Any) -> RunConfig:
    """Return a run of three rounds over the small model; `changes` replace keys by section."""
    table: dict[str, Any] = {
        "name": "small",
        "seed": 3,
        "model": {"base": "tiny" if Path(model) == Path("tiny") else str(Path(model).absolute())},
        "adapter": {"rank": 4, "alpha": 8},
        "questions": {"view": "core", "per_patient": 2, "codebook_sha256": synthetic.codebook().sha256},
        "grpo": {
            "group_size": 4,
            "max_completion_tokens": 8,
            "max_prompt_tokens": 600,
            "scale_rewards": "none",
            "kl": 0.05,
        },
        "federation": {"name": "small", "rounds": 3, "sites": 3, "population": 30, "sampling_rate": 0.3},
        "optimizer": {"learning_rate": 1e-2, "warmup_rounds": 0},
        "evaluation": {"every": 0, "per_patient": 1},
        "simulation": {"hospitals": ["north", "south", "west"], "patients": 14, "compare": True},
    }
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values} if isinstance(values, dict) else values
    return RunConfig.model_validate(table)


def made_rollouts(
    prompts: Sequence[list[int]], config: GrpoConfig, *, vocabulary: int, device: str = "cpu"
) -> Rollouts:
    """Return rollouts that nobody sampled: all completions unlike, and rewards that differ within every group.

    So no gradient is zero by chance. Lengths are all there are, the longest and one token among them.
    """
    rows, longest = len(prompts) * config.group_size, config.max_completion_tokens
    tokens = torch.randint(2, vocabulary, (rows, longest), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(longest) < (longest - torch.arange(rows) % longest)[:, None]).long()
    done = (tokens * mask, mask, torch.zeros(tokens.shape))
    empty = torch.zeros(len(prompts), config.group_size)
    rollouts = Rollouts(list(prompts), Completions(*(tensor.to(device) for tensor in done)), [""] * rows, empty, empty)
    return differing(rollouts, config)


def differing(rollouts: Rollouts, config: GrpoConfig) -> Rollouts:
    """Return the rollouts as if every other completion of each group had been right."""
    rewards = (torch.arange(rollouts.rewards.numel()).view_as(rollouts.rewards) % config.group_size % 2).float()
    return replace(rollouts, rewards=rewards, advantages=advantages(rewards, config.scale_rewards))


def private_config(model: Path, **changes: object) -> RunConfig:
    return small_config(
        model, **{"federation": {"population": 30, "sampling_rate": 0.3, "rounds": 2}, "privacy": PRIVACY, **changes}
    )


def write_config(folder: Path, model: Path, **changes: object) -> Path:
    config = small_config(model, **{"evaluation": {"every": 3}, **changes})
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(table))
    return path
