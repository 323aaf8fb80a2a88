"""Supervised warm-up with TRL's SFTTrainer: tokenised examples in a fixed order, for a fixed number of steps.

The completion carries the loss, letters three times; the prompt a fiftieth, which is enough to shape the embeddings.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from common.model.making import Progress, Report
from common.questions.question import LETTERS
from common.tiny.text import Example, PublicText

_PROMPT_WEIGHT = 0.02
_LETTER_WEIGHT = 3.0


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Steps of each stage, and the optimizer's settings.

    `drill` steps copy, `mixed` steps state facts three times out of four and else work questions, `worked` steps work
    questions. The learning rate ramps up over 30 steps, holds until halfway and falls to a twentieth.
    """

    drill: int
    mixed: int
    worked: int
    batch: int = 24
    rate: float = 2e-3
    seed: int = 1
    corpus: int = 1200

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.drill + self.mixed + self.worked

    def rate_at(self, step: int) -> float:
        """Learning rate of a step as a share of `rate`."""
        done = step / self.steps
        return min(1.0, (step + 1) / 30) * (1.0 if done < 0.5 else max(0.05, (1 - done) / 0.5))

    def examples(self, text: PublicText, tokenizer: PreTrainedTokenizerFast) -> Iterator[Example]:
        """All examples in the order of training."""
        for step in range(self.steps):
            mixed = self.drill <= step < self.drill + self.mixed
            for _ in range(self.batch):
                if step < self.drill:
                    yield text.drill(tokenizer)
                else:
                    yield (text.facts() if mixed and step % 4 else None) or text.worked(tokenizer)


def tokenise(examples: Iterator[Example], tokenizer: PreTrainedTokenizerFast) -> list[dict[str, Any]]:
    """Token ids of each example and the number of tokens at its end that are taught."""
    rows = []
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"] if example.prompt else []
        completion = tokenizer(example.completion)["input_ids"] + [tokenizer.eos_token_id] * example.ends
        rows.append({"input_ids": prompt + completion, "taught": len(completion)})
    return rows


def collate(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    """Pad rows on the left: `input_ids`, `attention_mask`, `position_ids` and loss `weights`, each (rows, longest)."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    weights = torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        ids[i, longest - length :] = torch.tensor(row["input_ids"])
        weights[i, longest - length :] = _PROMPT_WEIGHT
        weights[i, longest - row["taught"] :] = 1.0
    mask = (weights > 0).long()
    letters = torch.tensor(tokenizer.convert_tokens_to_ids(list(LETTERS)))
    weights = torch.where(torch.isin(ids, letters), _LETTER_WEIGHT * weights, weights)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        "weights": weights,
    }


def weighted_loss(network: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the next tokens under the batch's weights."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "weights"}
    logits = network(**inputs, use_cache=False).logits[:, :-1]
    weights = batch["weights"][:, 1:]
    losses = F.cross_entropy(logits.flatten(0, 1), batch["input_ids"][:, 1:].flatten(), reduction="none")
    return (losses.view_as(weights) * weights).sum() / weights.sum()


def warm_up(
    network: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    text: PublicText,
    curriculum: Curriculum,
    report: Report,
) -> None:
    """Train the network in place on public text; the same bits for the same curriculum on the same machine."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    class WarmUp(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(rows)

        def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *_: Any, **__: Any) -> torch.Tensor:
            return weighted_loss(model, inputs)

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            report(Progress("warming up", state.global_step, curriculum.steps))

    report(Progress("writing the examples"))
    rows = Dataset.from_list(tokenise(curriculum.examples(text, tokenizer), tokenizer))
    optimizer = torch.optim.AdamW(network.parameters(), lr=curriculum.rate, betas=(0.9, 0.98), weight_decay=0.01)
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        settings = SFTConfig(
            output_dir=scratch,
            max_steps=curriculum.steps,
            per_device_train_batch_size=curriculum.batch,
            max_grad_norm=1.0,
            seed=curriculum.seed,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = WarmUp(
            model=network,
            args=settings,
            train_dataset=rows,
            data_collator=lambda rows: collate(rows, tokenizer),
            processing_class=tokenizer,
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, curriculum.rate_at)),
            callbacks=[Steps()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    network.train(False)
