"""TRL's GRPOTrainer as the oracle of our GRPO step: the same completions and advantages must give the same gradient.

One trainer serves both comparisons, of gradients (`draw_batch`, `gradient`) and of time (`step`). It is driven step by
step, so it can alternate with another engine in one process. Copy a model *before* it meets a trainer: TRL replaces the
`forward` of the base model by a closure over that object, and a later deep copy would run the original's weights.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

RewardFunction = Callable[[Sequence[Any], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Batch:
    """The rows of one training step as TRL's loss sees them, in TRL's shuffled order.

    Attributes
    ----------
    prompt_ids, prompt_mask
        `(rows, prompt tokens)`, padded on the left.
    completion_ids, completion_mask
        `(rows, longest completion)`, padded on the right; the mask includes the end token.
    advantages
        `(rows,)`, float32, as TRL computed them.
    ref_per_token_logps
        `(rows, longest completion)` of the frozen base, where the divergence from it is weighed.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    completion_mask: Tensor
    advantages: Tensor
    ref_per_token_logps: Tensor | None = None


@dataclass(frozen=True)
class StepTime:
    """Wall-clock seconds of one step: rollout with rewards and advantages, then loss, backward and optimizer."""

    rollout: float
    training: float

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return self.rollout + self.training


class OracleTrainer(GRPOTrainer):
    """A GRPOTrainer driven one step at a time; every method it does not define is TRL's own."""

    plain_log_probs: bool = False
    """False: TRL's fused LM head, float32 inside; on a CPU it projects the prompt's positions too. True: log-softmax of
    the completion's logits in the model's precision, positions given. May be changed between calls."""

    def prepare(self) -> None:
        """Do what `train()` does once before its loop, so that no set-up is left for the steps."""
        self.create_optimizer_and_scheduler(num_training_steps=self.args.max_steps)
        self.optimizer = self.accelerator.prepare(self.optimizer)
        self.current_gradient_accumulation_steps = 1  # set by the loop, divides the loss
        self.rollout_seconds = 0.0
        self._batches = self._endless_batches()

    def _endless_batches(self) -> Iterator[list[dict[str, Any]]]:
        loader = self.get_train_dataloader()
        while True:
            yield from loader

    def step(self) -> StepTime:
        """Run one whole step: rollout, rewards, loss, backward, clipping, optimizer."""
        rows = next(self._batches)
        start = time.perf_counter()
        self.training_step(self.model_wrapped, rows, None)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.model.zero_grad()
        self.state.global_step += 1
        total = time.perf_counter() - start
        self._metrics["train"].clear()  # `log` would have emptied it
        return StepTime(self.rollout_seconds, total - self.rollout_seconds)

    def draw_batch(self) -> Batch:
        """Roll out and score one step's completions without training on them."""
        self.model.train()  # in eval mode TRL would neither shuffle nor use `num_generations`
        trained = trainable_names(self.model)
        inputs = self._prepare_inputs(next(self._batches))
        train_alone(self.model, trained)  # peft trains all of an adapter that it switches on again
        return Batch(**{name: inputs.get(name) for name in Batch.__dataclass_fields__})

    def gradient(self, batch: Batch) -> Tensor:
        """Gradient of TRL's loss on `batch` before clipping: one flat float64 vector, see `flat_gradient`."""
        self.model.zero_grad()
        loss = self.compute_loss(self.model_wrapped, dict(vars(batch)))
        self.accelerator.backward(loss)
        gradient = flat_gradient(self.model)
        self.model.zero_grad()
        return gradient

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        start = time.perf_counter()
        inputs = super()._prepare_inputs(generation_batch)
        self.rollout_seconds = time.perf_counter() - start
        return inputs

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Accept prompts that are token ids already; TRL itself takes strings or chat messages."""
        if isinstance(prompts[0], str):
            return super()._tokenize_prompts(prompts)
        return [list(ids) for ids in prompts], None, {}

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not self.plain_log_probs:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": positions}
        log_probs = model(**inputs, logits_to_keep=logits_to_keep + 1).logits[:, :-1].log_softmax(-1)
        chosen = log_probs.gather(-1, input_ids[:, -logits_to_keep:, None]).squeeze(-1)
        entropies = -(log_probs.exp() * log_probs).sum(-1).detach()  # only for TRL's metrics
        return chosen, entropies, None


def make_trainer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    group_size: int,
    completion_tokens: int,
    reward: RewardFunction,
    *,
    output_dir: str,
    prompts_per_step: int | None = None,
    kl: float = 0.0,
    scale_by_group_deviation: bool = False,
    fixed_length: bool = False,
    learning_rate: float = 1e-3,
    max_grad_norm: float = 1.0,
    seed: int = 0,
) -> OracleTrainer:
    """Build a GRPOTrainer on the CPU with the settings under which its loss is the one of our engine.

    Parameters
    ----------
    model
        A causal LM already wrapped by peft, adapter trainable, without dropout. TRL patches its `forward` for good.
    tokenizer
        With a pad token and an end token. The model's `generation_config.eos_token_id` ends completions too.
    prompts
        Strings, or lists of token ids; as many tokens in each. Taken in this order, again and again.
    group_size
        Completions per prompt.
    completion_tokens
        Most new tokens per completion, and the constant in dr_grpo's denominator.
    reward
        Maps prompts (as given) and decoded completions, one per row, to one number per row.
    output_dir
        The Trainer insists on a directory; nothing is written into it.
    prompts_per_step
        Default: all of them.
    kl
        Weight of the divergence from the base without the adapter, by TRL's defaults.
    scale_by_group_deviation
        Divide advantages by the group's deviation (ddof=1) plus 1e-4.
    fixed_length
        Forbid the end tokens before `completion_tokens`, for timing: every row then has exactly that many. Not for a
        comparison of policies, since the loss does not know of the ban.
    learning_rate, max_grad_norm
        Of AdamW without weight decay, constant rate.
    seed
        The constructor seeds torch, numpy and random globally with it, twice.

    Returns
    -------
    OracleTrainer
        Ready: the next call may be `step` or `draw_batch`.
    """

    def reward_function(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        return [float(value) for value in reward(prompts, completions)]

    prompts_per_step = prompts_per_step or len(prompts)
    if len(prompts) % prompts_per_step:
        # TRL's RepeatSampler drops an incomplete last batch without a word.
        raise ValueError(f"{len(prompts)} prompts do not split into steps of {prompts_per_step}")
    config = GRPOConfig(
        output_dir=output_dir,
        use_cpu=True,
        bf16=False,  # TRL's default is True: autocast, gradients off by 1e-2
        gradient_checkpointing=False,  # TRL's default is True: recomputes the forward pass
        # The loss
        loss_type="dr_grpo",  # sum over tokens / (rows x max_completion_length); the default is dapo
        beta=kl,
        scale_rewards="group" if scale_by_group_deviation else "none",  # the default is group
        disable_dropout=True,
        # On-policy: one micro-batch, one optimizer step per rollout; old log-probs are then the detached new ones
        per_device_train_batch_size=prompts_per_step * group_size,
        gradient_accumulation_steps=1,
        steps_per_generation=1,
        num_iterations=1,
        # The rollout
        num_generations=group_size,
        max_completion_length=completion_tokens,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        generation_kwargs={"min_new_tokens": completion_tokens} if fixed_length else None,
        shuffle_dataset=False,
        # The optimizer
        optim="adamw_torch",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=max_grad_norm,
        max_steps=1_000_000,
        # Nothing else
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    trained = trainable_names(model)
    trainer = OracleTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward_function,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": list(prompts)}),
    )
    if kl:  # TRL takes a copy of the adapter as it is for the reference; without that copy, the base
        model.delete_adapter("ref")
        train_alone(model, trained)
    trainer.prepare()
    return trainer


def use_float64_norms(model: nn.Module) -> None:
    """Make the RMS norms of a float64 model compute in float64, in place.

    Transformers rounds their input, and so the gradient that leaves them, to float32. Engines that run whole rows agree
    to 1e-15 regardless. One that runs a prompt once for its G completions differs from TRL by 3e-8 with the stock
    norms (its log-probs still agree to 1e-15) and by 2e-15 with these.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_float64_norm, module)


def _float64_norm(self: nn.Module, hidden: Tensor) -> Tensor:
    return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def trainable_names(model: nn.Module) -> set[str]:
    """Names of the parameters that are trained."""
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def train_alone(model: nn.Module, names: set[str]) -> None:
    """Train these parameters and no others."""
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in names)


def flat_gradient(model: nn.Module) -> Tensor:
    """Gradients of the trainable parameters as one float64 vector, in sorted order of parameter name."""
    trainable = sorted((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    return torch.cat([weight.grad.double().flatten() for _, weight in trainable])


def relative_difference(gradient: Tensor, reference: Tensor) -> float:
    """`||gradient - reference|| / ||reference||`."""
    return ((gradient - reference).norm() / reference.norm()).item()
