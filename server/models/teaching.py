"""Supervised steps on lessons: all weights in float32, the loss on what is to be answered alone.

A plain loop and not TRL's SFTTrainer, whose steps these are (tests/server/models/test_teaching.py compares them): here
each step draws its lessons by its own number, so that an interrupted warm-up goes on with the same bits and without
going through what it had done, and the probe decides when it is over.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.decoding.determinism import repeatable
from common.decoding.evaluate import answer
from common.decoding.generate import left_pad, positions
from common.errors import Code, FedReasonError
from server.models.course import Course
from server.models.lessons import Lesson
from server.models.practice import Practice, Row

_RAMP = 20
_TOKENS = {"cpu": 2**11, "cuda": 2**13}
"""Tokens of one pass: what memory holds, and a constant, for the bits depend on it."""


@dataclass(frozen=True)
class Look:
    """What the probe found after so many steps: shares boxed and right, and right by kind and by codebook."""

    step: int
    boxed: float
    right: float
    kinds: dict[str, float]
    sources: list[float]

    def __str__(self) -> str:
        """Say it in words."""
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in self.kinds.items())
        return f"boxes {self.boxed:.0%}, right {self.right:.0%} ({kinds})"


class Teaching:
    """A model on its way, and where it stands: after `step` steps, the `looks` of the probe so far.

    Parameters
    ----------
    model
        In float32; it is changed in place.
    """

    def __init__(self, practice: Practice, model: PreTrainedModel) -> None:
        self.step, self.looks, self.loss = 0, list[Look](), math.nan
        self.practice, self.course, self.model = practice, practice.course, model
        self.device = next(model.parameters()).device
        model.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.course.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def teach(self) -> None:
        """Take the next step."""
        self.learn(self.practice.rows(self.step))

    def learn(self, rows: Sequence[Row]) -> None:
        """Take one step on these rows.

        Raises
        ------
        FedReasonError
            WARMUP_DIVERGED where the loss is no number.
        """
        rows = sorted(rows, key=len)
        words = sum(len(row.completion) for row in rows)
        total = 0.0
        for some in _passes(rows, _TOKENS.get(self.device.type, _TOKENS["cpu"])):
            with repeatable(self.device.type):
                with precision(self.device):
                    loss = completion_loss(self.model, some, self.practice.tokenizer.pad_token_id) / words
                loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FedReasonError(
                Code.WARMUP_DIVERGED,
                f"After {self.step} steps the loss is no number any more.",
                "Lower learning_rate, and begin anew in another folder.",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.course.learning_rate * min(1.0, (self.step + 1) / _RAMP)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step, self.loss = self.step + 1, total

    def look(self, exam: Sequence[Sequence[Lesson]]) -> Look:
        """Have the model answer an exam as a run's questions are answered, and keep what was found."""
        found = look(self.model, self.practice.tokenizer, exam, self.course, self.step)
        self.looks.append(found)
        return found

    def save(self, path: Path) -> None:
        """Write all that is needed to go on; whole or not at all."""
        fresh = path.with_name(path.name + ".new")
        state = {
            "step": self.step,
            "looks": [asdict(look) for look in self.looks],
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, fresh)
        fresh.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from where it was saved.

        Raises
        ------
        FedReasonError
            WARMUP_OTHER where the file cannot be read.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step, self.looks = state["step"], [Look(**look) for look in state["looks"]]
        except Exception as error:  # torch and pickle raise whatever a damaged file makes them raise
            raise FedReasonError(
                Code.WARMUP_OTHER,
                f"{path} cannot be read ({type(error).__name__}).",
                "Remove its folder to begin anew.",
            ) from None


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Products in bfloat16 on a GPU, over weights in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def completion_loss(model: torch.nn.Module, rows: Sequence[Row], pad: int) -> Tensor:
    """Sum over the rows of the negative log-probabilities of their completions; only their logits are computed."""
    device = next(model.parameters()).device
    ids, mask = left_pad([row.prompt + row.completion for row in rows], pad)
    place = positions(mask)
    longest = max(len(row.completion) for row in rows)
    taught = torch.tensor([[longest - at <= len(row.completion) for at in range(longest)] for row in rows])
    ids, mask, place, taught = (tensor.to(device) for tensor in (ids, mask, place, taught))
    out = model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=False, logits_to_keep=longest + 1)
    logits = out.logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, -longest:].flatten(), reduction="none")
    return (losses.view_as(taught) * taught).sum()


def look(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    exam: Sequence[Sequence[Lesson]],
    course: Course,
    step: int,
) -> Look:
    """Have a model answer an exam, codebook by codebook."""
    asked = [lesson for part in exam for lesson in part]
    with precision(next(model.parameters()).device):
        given = answer(model, tokenizer, [lesson.question for lesson in asked], course.grpo, forced=False)
    rights = [each.chosen == lesson.question.answer for each, lesson in zip(given, asked, strict=True)]
    kinds: dict[str, list[bool]] = defaultdict(list)
    for lesson, right in zip(asked, rights, strict=True):
        kinds[lesson.kind].append(right)
    places = [place for place, part in enumerate(exam) for _ in part]
    return Look(
        step=step,
        boxed=_share([each.chosen is not None for each in given]),
        right=_share(rights),
        kinds={kind: _share(found) for kind, found in kinds.items()},
        sources=[
            _share([right for right, at in zip(rights, places, strict=True) if at == place])
            for place in range(len(exam))
        ],
    )


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found)


def _passes(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Split rows, the shortest first, so that a padded pass holds at most so many tokens."""
    passes: list[list[Row]] = [[]]
    for row in rows:
        if passes[-1] and (len(passes[-1]) + 1) * len(row) > most:
            passes.append([])
        passes[-1].append(row)
    return passes
