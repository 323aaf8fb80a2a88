"""What a step tells of itself while it runs: lengths, divergence, norms of gradients, seconds, joules, and texts.

Watching changes no bit of what is computed. What is seen are plain statistics of a site's patients: they stay there.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from client.grpo.counts import RolloutCounts, Rollouts
from client.grpo.energy import GPU, PROCESSOR, joined, meter, total
from client.grpo.entry import Entry
from client.grpo.loss import k3
from client.site.stage import Stage, tell
from common.arrays import Vector
from common.collapse import LETTERS
from common.decoding.generate import Completions
from common.messages.kinds import Task
from common.questions.question import Question

_Stage = Literal["prefill", "decode", "train"]


class Watch:
    """What a step tells as it goes; this one does not listen."""

    texts = False
    """Whether completions are wanted."""

    def sampling(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Surround the sampling of one batch from a model."""
        return nullcontext()

    def training(self, prompts: Sequence[Sequence[int]], completions: Completions) -> AbstractContextManager[None]:
        """Surround the pass with gradient through some questions' rollouts."""
        return nullcontext()

    def rewarded(self, questions: Sequence[Question], rollouts: Rollouts) -> None:
        """Tell one patient's rollouts."""

    def compared(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> None:
        """Tell log-probabilities [R, T] under the adapter and under the frozen base."""

    def mismatched(self, logprobs: Tensor, completions: Completions) -> None:
        """Tell log-probabilities [R, T] of what another program sampled, which says its own."""

    def differentiated(self, gradient: Vector) -> None:
        """Tell one patient's gradient [size], as it is before it is clipped."""

    def joined(self, other: StepWatch) -> None:
        """Tell what was seen of other patients of the step, elsewhere."""


UNWATCHED = Watch()


class StepWatch(Watch):
    """Adds up what one step tells.

    Parameters
    ----------
    device
        Where the model is. On a GPU a stage ends when the device has done its work, and the peak of its memory is that
        of this step; else the peak is of the process since it started.
    texts
        Whether completions are kept too, in `groups`.
    """

    def __init__(self, device: torch.device, *, texts: bool = False) -> None:
        self.groups: list[dict[str, Any]] = []
        self._device, self.texts = device, texts
        self._highest = 0
        self._seconds: dict[_Stage, float] = dict.fromkeys(("prefill", "decode", "train"), 0.0)
        self._trained = 0
        self._prompts: list[int] = []
        self._completions: list[int] = []
        self._norms: list[float] = []
        self._divergence, self._compared = 0.0, 0
        self._mismatch, self._mismatched = 0.0, 0
        self._meter = meter(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._started = self._now()

    @contextmanager
    def sampling(self, model: torch.nn.Module) -> Iterator[None]:
        """Count the model's passes over more than one token a row as prefill, all else as decode."""
        before = self._now()
        tell(Stage.SAMPLING)

        def reads(_: torch.nn.Module, __: Any, named: dict[str, Any]) -> None:
            nonlocal before
            if named["input_ids"].size(1) > 1:
                before = self._add("decode", before)

        def has_read(_: torch.nn.Module, __: Any, named: dict[str, Any], ___: Any) -> None:
            nonlocal before
            if named["input_ids"].size(1) > 1:
                before = self._add("prefill", before)

        hooks = (
            model.register_forward_pre_hook(reads, prepend=True, with_kwargs=True),
            model.register_forward_hook(has_read, with_kwargs=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._add("decode", before)

    @contextmanager
    def training(self, prompts: Sequence[Sequence[int]], completions: Completions) -> Iterator[None]:
        """Count what is inside as training; its tokens are the prompts, once each, and the completions."""
        tell(Stage.TRAINING)
        before = self._now()
        yield
        self._add("train", before)
        self._trained += sum(map(len, prompts)) + int(completions.mask.sum())

    def rewarded(self, questions: Sequence[Question], rollouts: Rollouts) -> None:
        """Count lengths, and keep the texts where they are wanted."""
        lengths: list[int] = rollouts.completions.mask.sum(1).tolist()
        self._prompts += map(len, rollouts.prompts)
        self._completions += lengths
        if not self.texts:
            return
        size = rollouts.rewards.size(1)
        for number, question in enumerate(questions):
            rows = range(number * size, number * size + size)
            rewards = rollouts.rewards[number].tolist()
            self.groups.append(
                {
                    "item": question.item,
                    "right": question.letter,
                    "completions": [
                        {"text": rollouts.texts[row], "reward": reward, "tokens": lengths[row]}
                        for row, reward in zip(rows, rewards, strict=True)
                    ],
                }
            )

    def compared(self, logprobs: Tensor, reference: Tensor, mask: Tensor) -> None:
        """Add up the estimate of the divergence from the base."""
        gap = (reference - logprobs.detach())[mask.bool()].double()
        self._divergence += float(k3(gap).sum())
        self._compared += gap.numel()

    def mismatched(self, logprobs: Tensor, completions: Completions) -> None:
        """Add up how far the two are apart."""
        gap = (logprobs.detach() - completions.logprobs)[completions.mask.bool()].double()
        self._mismatch += float(gap.abs().sum())
        self._mismatched += gap.numel()

    def differentiated(self, gradient: Vector) -> None:
        """Keep the gradient's norm."""
        self._norms.append(_norm(gradient))

    def joined(self, other: StepWatch) -> None:
        """Add what was seen elsewhere: seconds are those of all devices, the peak is that of the fullest."""
        self.groups += other.groups
        for stage, seconds in other._seconds.items():
            self._seconds[stage] += seconds
        self._trained += other._trained
        self._prompts += other._prompts
        self._completions += other._completions
        self._norms += other._norms
        self._divergence += other._divergence
        self._compared += other._compared
        self._mismatch += other._mismatch
        self._mismatched += other._mismatched
        self._highest = max(self._highest, other._highest)
        self._meter.look()
        self._meter.used = joined(self._meter.used, other._meter.used)

    def close(self) -> None:
        """Note the peak of memory and what was used, before this is told elsewhere."""
        self._highest = self._peak()
        self._meter.close()

    def entry(self, task: Task, step: int, adapter: Vector, counted: RolloutCounts) -> Entry:
        """Return the line of a task's step at an adapter: what was counted, and what was seen until now."""
        norms, seconds, privacy = self._norms, self._seconds, task.config.privacy
        moved = [norm for norm in norms if norm != 0 and math.isfinite(norm)]
        longer = None if privacy is None else sum(not norm <= privacy.clip_norm for norm in norms)
        prompts, completions = self._prompts, self._completions
        letters = [getattr(counted, name) for name in LETTERS]
        self._meter.look()
        return Entry(
            config=task.config.sha256,
            round=task.round,
            step=step,
            attempt=task.attempt,
            patients=counted.patients,
            questions=counted.questions,
            too_long=counted.too_long,
            rollouts=counted.rollouts,
            reward=_ratio(counted.reward, counted.rollouts),
            zero_variance=_ratio(counted.zero_variance, counted.questions),
            unboxed=_ratio(counted.unboxed, counted.rollouts),
            letter=_ratio(max(letters), sum(letters)),
            disagreeing=_ratio(counted.disagreeing, counted.rollouts),
            truncated=_ratio(counted.truncated, counted.rollouts),
            prompt_tokens=_ratio(sum(prompts), len(prompts)),
            prompt_longest=max(prompts, default=None),
            completion_tokens=_ratio(sum(completions), len(completions)),
            completion_longest=max(completions, default=None),
            kl=_ratio(self._divergence, self._compared),
            mismatch=_ratio(self._mismatch, self._mismatched),
            clipped=None if longer is None else _ratio(longer, len(norms)),
            gradient_norm=median(moved) if moved else None,
            gradient_norm_largest=max(moved, default=None),
            not_finite=sum(not math.isfinite(norm) for norm in norms),
            adapter_norm=_norm(adapter),
            seconds=self._now() - self._started,
            seconds_prefill=seconds["prefill"],
            seconds_decode=seconds["decode"],
            seconds_train=seconds["train"],
            speed_prefill=_ratio(sum(prompts), seconds["prefill"]),
            speed_decode=_ratio(sum(completions), seconds["decode"]),
            speed_train=_ratio(self._trained, seconds["train"]),
            device=self._device.type,
            peak_bytes=max(self._highest, self._peak()),
            joules_gpu=total(self._meter.used, GPU),
            joules_processor=total(self._meter.used, PROCESSOR),
            **dict(zip(LETTERS, letters, strict=True)),
        )

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _add(self, stage: _Stage, before: float) -> float:
        now = self._now()
        self._meter.look()
        self._seconds[stage] += now - before
        return now

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _norm(vector: Vector) -> float:
    """Length of a vector, in float64: what is large is not infinite."""
    return float(np.linalg.norm(vector.astype(np.float64)))


def _ratio(amount: float, of: float) -> float | None:
    return amount / of if of else None
