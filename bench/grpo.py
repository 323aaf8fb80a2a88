"""Our patient-wise GRPO step beside TRL's GRPOTrainer: same model, prompts, group size and completion length.

The two alternate in one process; ratios are medians of pairs. The gradients are compared on completions and advantages
that TRL itself drew.
"""

from __future__ import annotations

import contextlib
import copy
import json
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peft import PeftModel
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from client.grpo.loss import advantages
from client.grpo.rollout import Rollouts
from client.grpo.step import rollout_gradient
from common.adapter import read_adapter, trainable
from common.config import AdapterConfig, GrpoConfig, OptimizerConfig
from common.generate import Completions, generate
from common.lattice import add, from_lattice, to_lattice
from common.model import add_lora
from common.optimizer import Optimizer
from common.policy import Policy
from common.stream import Stream

QUESTIONS_PER_PATIENT = 4
BITS = 40


def words_tokenizer(vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """Return a tokenizer of numbered words, enough to decode completions to text."""
    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def random_model(tokenizer: PreTrainedTokenizerFast) -> PeftModel:
    """Return a Qwen2 of the embedded model's shape with random weights and a random, non-zero B."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        attn_implementation="sdpa",
        initializer_range=0.05,
    )
    model = add_lora(Qwen2ForCausalLM(config).requires_grad_(False), AdapterConfig(), 0)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.normal_(0, 0.02)
    return model


def random_prompts(count: int, length: int) -> list[list[int]]:
    """Return prompts of one length, token ids drawn from a named stream."""
    stream = Stream.named("bench prompts", count, length)
    return [(2 + stream.uniforms(length) * 1000).astype(int).tolist() for _ in range(count)]


def text_reward(_: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Return a number in [0, 1) that a completion's text fixes, so that no group agrees."""
    return [zlib.crc32(text.encode()) / 2**32 for text in completions]


class OurStep:
    """Our step as a site and the server do it: rollouts by patient, gradients on the lattice, optimizer."""

    def __init__(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerFast, prompts: list[list[int]], config: GrpoConfig
    ) -> None:
        self.model, self.tokenizer, self.prompts, self.config = model, tokenizer, prompts, config
        self.policy = Policy(model)
        self.optimizer = Optimizer(OptimizerConfig(learning_rate=1e-3), read_adapter(model), 1000)
        self.round = 0

    def run(self) -> float:
        """Run one whole step and return its seconds."""
        self.round += 1
        started = time.perf_counter()
        total = np.zeros(sum(p.numel() for p in trainable(self.model)), dtype=np.int64)
        for first in range(0, len(self.prompts), QUESTIONS_PER_PATIENT):
            gradient = self.patient(self.prompts[first : first + QUESTIONS_PER_PATIENT], first)
            total = add(total, to_lattice(gradient, BITS))
        self.optimizer.step(from_lattice(total, 2.0**-BITS) / len(self.prompts), self.round)
        with torch.no_grad():
            pieces = torch.from_numpy(self.optimizer.adapter).split([p.numel() for p in trainable(self.model)])
            for parameter, piece in zip(trainable(self.model), pieces, strict=True):
                parameter.copy_(piece.view_as(parameter))
        self.policy.refresh()
        return time.perf_counter() - started

    def patient(self, prompts: list[list[int]], number: int) -> np.ndarray:
        """Roll out, reward and differentiate one patient's questions; no token ends a completion."""
        config, rows = self.config, len(prompts) * self.config.group_size
        uniforms = Stream.named("bench", self.round, number).uniforms(rows * config.max_completion_tokens)
        completions = generate(
            self.policy.model,
            prompts,
            group_size=config.group_size,
            max_tokens=config.max_completion_tokens,
            eos=-1,
            pad=0,
            uniforms=torch.from_numpy(uniforms).view(rows, -1),
        )
        texts = self.tokenizer.batch_decode(completions.tokens.tolist())
        rewards = torch.tensor(text_reward(prompts, texts)).view(-1, config.group_size)
        rollouts = Rollouts(prompts, completions, texts, rewards, advantages(rewards))
        return (
            rollout_gradient(self.model, rollouts, config, per_patient=len(prompts), pad=0).numpy().astype(np.float64)
        )


def regrouped(batch: Any, group_size: int) -> Rollouts:
    """TRL's shuffled rows as our rollouts, prompt by prompt."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for row, (ids, mask) in enumerate(zip(batch.prompt_ids.tolist(), batch.prompt_mask.tolist(), strict=True)):
        by_prompt.setdefault(tuple(token for token, keep in zip(ids, mask, strict=True) if keep), []).append(row)
    order = [row for rows in by_prompt.values() for row in rows]
    mask = batch.completion_mask[order].long()
    completions = Completions(batch.completion_ids[order], mask, torch.zeros(mask.shape))
    gains = batch.advantages[order].view(-1, group_size)
    return Rollouts([list(prompt) for prompt in by_prompt], completions, [], gains, gains)


def gradient_differences(prompts: list[list[int]], config: GrpoConfig) -> dict[str, float]:
    """||ours - TRL's|| / ||TRL's|| in float64, for TRL as it is and with its log-probs in float64."""
    from bench.trl_oracle import make_trainer, relative_difference, use_float64_norms

    tokenizer = words_tokenizer()
    model = random_model(tokenizer).double()
    use_float64_norms(model)
    ours = copy.deepcopy(model)
    model.get_base_model().generation_config.eos_token_id = [tokenizer.eos_token_id, *range(300, 340)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model, tokenizer, prompts, config.group_size, config.max_completion_tokens, text_reward, output_dir=folder,
            scale_by_group_deviation=False, fixed_length=False,
        )  # fmt: skip
        batch = trainer.draw_batch()
        stock = trainer.gradient(batch)
        trainer.plain_log_probs = True
        exact = trainer.gradient(batch)
    rollouts = regrouped(batch, config.group_size)
    mine = rollout_gradient(ours, rollouts, config, per_patient=len(prompts), pad=tokenizer.pad_token_id)
    return {
        "gradient_relative_difference": relative_difference(mine, stock),
        "gradient_relative_difference_float64": relative_difference(mine, exact),
    }


def times(prompts: list[list[int]], config: GrpoConfig, repeats: int) -> dict[str, float]:
    """Whole steps in turn: ours, TRL as it is, TRL with its LM head on completions alone."""
    from bench.trl_oracle import make_trainer

    tokenizer = words_tokenizer()
    model = random_model(tokenizer)
    ours = OurStep(copy.deepcopy(model), tokenizer, prompts, config)
    pairs: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model, tokenizer, prompts, config.group_size, config.max_completion_tokens, text_reward, output_dir=folder,
            scale_by_group_deviation=False, fixed_length=True,
        )  # fmt: skip
        for repeat in range(repeats + 1):
            mine = ours.run()
            trainer.plain_log_probs = False
            stock = trainer.step().total
            trainer.plain_log_probs = True
            plain = trainer.step().total
            print(
                f"  step {repeat}: ours {mine:.3f} s, TRL {stock:.3f} s, TRL completion head {plain:.3f} s",
                file=sys.stderr,
            )
            pairs.append((mine, stock, plain))
    pairs = pairs[1:]
    return {
        "seconds": statistics.median(pair[0] for pair in pairs),
        "trl_seconds": statistics.median(pair[1] for pair in pairs),
        "ratio_to_trl": statistics.median(pair[1] / pair[0] for pair in pairs),
        "ratio_to_trl_completion_head": statistics.median(pair[2] / pair[0] for pair in pairs),
    }


def main(
    prompt: Annotated[list[int], typer.Option(help="prompt tokens, may be repeated", default_factory=lambda: [80])],
    device: Annotated[str, typer.Option(help="cpu; the step itself also runs on cuda")] = "cpu",
    groups: Annotated[int, typer.Option(help="prompts a step")] = 8,
    generations: Annotated[int, typer.Option(help="completions of a prompt")] = 8,
    completion: Annotated[int, typer.Option(help="completion tokens")] = 14,
    repeats: Annotated[int, typer.Option(help="counted steps of each")] = 7,
) -> None:
    """Compare time and gradients; the last line is JSON."""
    if device != "cpu":
        raise typer.BadParameter("the comparison with TRL runs on the cpu")
    torch.set_num_threads(1)
    results = []
    for length in prompt:
        print(f"prompt {length}", file=sys.stderr)
        config = GrpoConfig(group_size=generations, max_completion_tokens=completion)
        with contextlib.redirect_stdout(sys.stderr):
            result = times(random_prompts(groups, length), config, repeats)
            result |= gradient_differences(random_prompts(3, length), config)
        results.append({"prompt": length, **result})
    first = results[0]
    print(
        json.dumps(
            {
                "device": device,
                "groups": groups,
                "generations": generations,
                "completion": completion,
                **first,
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
