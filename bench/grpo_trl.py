"""Our patient-wise GRPO step beside TRL's GRPOTrainer: same model, prompts, group size and completion length.

The two alternate in one process; ratios are medians of pairs. The gradients are compared on completions and advantages
that TRL itself drew.
"""

from __future__ import annotations

import copy
import statistics
import sys
import tempfile
import time
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from peft import PeftModel
from transformers import GenerationMixin, PreTrainedModel, PreTrainedTokenizerFast
from trl import GRPOConfig

from bench.grpo_work import Work, random_model, random_prompts, text_reward, words_tokenizer
from bench.trl_oracle import OracleTrainer, make_trainer, relative_difference, use_float64_norms
from client.grpo.counts import Rollouts
from client.grpo.loss import advantages
from client.grpo.sampler import TransformersSampler
from client.grpo.step import rollout_gradient
from common.config import GrpoConfig, OptimizerConfig
from common.decoding.generate import Completions
from common.lattice import add, from_lattice, to_lattice
from common.model.adapter import read_adapter, trainable
from common.model.optimizer import Optimizer
from common.model.policy import Policy
from common.stream import Stream

QUESTIONS_PER_PATIENT = 4
BITS = 40


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

    def patient(self, prompts: list[list[int]], number: int) -> NDArray[np.float64]:
        """Roll out, reward and differentiate one patient's questions; no token ends a completion."""
        config, rows = self.config, len(prompts) * self.config.group_size
        uniforms = Stream.named("bench", self.round, number).uniforms(rows * config.max_completion_tokens)
        sampler = TransformersSampler(self.policy.model, ends=(-1,), pad=0)
        drawn = torch.from_numpy(uniforms).view(len(prompts), config.group_size, -1)
        reads = sampler.read(self.model, prompts, config)
        completions = sampler.sample(prompts, drawn, config, reads=reads)
        texts = self.tokenizer.batch_decode(completions.tokens.tolist())
        rewards = torch.tensor(text_reward(prompts, texts)).view(-1, config.group_size)
        rollouts = Rollouts(prompts, completions, texts, rewards, advantages(rewards), reads=reads)
        gradient = rollout_gradient(self.model, rollouts, config, per_patient=len(prompts), pad=0)
        return gradient.double().numpy()


def compared(work: Work, repeats: int) -> dict[str, float]:
    """Time and gradients of both for one length of prompt, on the CPU."""
    config = GrpoConfig(group_size=work.generations, max_completion_tokens=work.completion)
    return times(random_prompts(work.groups, work.prompt), config, repeats) | gradient_differences(
        random_prompts(3, work.prompt), config
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
    tokenizer = words_tokenizer()
    model = random_model(tokenizer).double()
    use_float64_norms(model)
    ours = copy.deepcopy(model)
    generation = cast(GenerationMixin, model.get_base_model()).generation_config
    assert generation is not None
    generation.eos_token_id = [tokenizer.eos_token_id, *range(300, 340)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            model, tokenizer, prompts, config.group_size, config.max_completion_tokens, text_reward, output_dir=folder,
            kl=config.kl, scale_by_group_deviation=False, fixed_length=False,
        )  # fmt: skip
        trainer.plain_log_probs = True
        batch = trainer.draw_batch()
        trainer.plain_log_probs = False
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


def trl_stages(model: PeftModel, work: Work, device: str, repeats: int) -> dict[str, float]:
    """Seconds per group of TRL as it comes, on the model's device: its rollout, and its loss with checkpointing.

    All groups are sampled in one batch, and trained on one group at a time. TRL changes the model for good.
    """
    tokenizer = words_tokenizer(cast(PreTrainedModel, model.get_base_model()).config.vocab_size)
    prompts = random_prompts(work.groups, work.prompt)
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=device == "cpu",
            bf16=False,  # the weights have the dtype that they have
            loss_type="dr_grpo",
            beta=0.0,
            scale_rewards="none",
            per_device_train_batch_size=work.generations,
            gradient_accumulation_steps=work.groups,
            num_generations=work.generations,
            max_completion_length=work.completion,
            generation_kwargs={"min_new_tokens": work.completion},
            shuffle_dataset=False,
            learning_rate=1e-3,
            max_steps=1_000_000,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )

        def reward(prompts: list[Any], completions: list[str], **_: Any) -> list[float | None]:
            return [*text_reward(prompts, completions)]

        trainer = OracleTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
        )
        trainer.prepare()
        taken = []
        for _ in range(repeats + 1):
            steps = [trainer.step() for _ in range(work.groups)]
            taken.append((sum(step.rollout for step in steps), sum(step.training for step in steps)))
    rollout, training = (statistics.median(part) / work.groups for part in zip(*taken[1:], strict=True))
    return {"rollout": rollout, "training": training, "whole": rollout + training}
