"""Supervised steps on lessons: all weights in float32, the loss on what is to be answered alone.

A plain loop and not TRL's SFTTrainer, whose steps these are (tests/server/models/test_teaching.py compares them): here
each step draws its lessons by its own number and the latest look, so that an interrupted warm-up goes on with the same
bits and without going through what it had done, and the probe decides when it is over.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from common.decoding.determinism import repeatable
from common.decoding.evaluate import answer
from common.decoding.masks import by_layer, dense
from common.decoding.row import PackedRow, shared_row
from common.errors import Code, FedReasonError
from server.models.course import Course
from server.models.lessons import Kind, Lesson
from server.models.practice import Practice, Row

_RAMP = 20
_ROW_TOKENS = 1024
"""Rows go through the model so many tokens at a time: fewer use a processor badly, more pay for attention's square."""
_LATEST = 9
"""The average of the weights is about that of the latest ninth of all steps."""
_SAME = 1e-3
"""By how much a loss may differ, relative, that is the same but for roundings."""


@dataclass(frozen=True)
class Look:
    """What the probe found after so many steps: shares boxed and right, and right by kind and by codebook."""

    step: int
    boxed: float
    right: float
    kinds: dict[Kind, float]
    sources: list[float]

    def __str__(self) -> str:
        """Say it in words."""
        kinds = ", ".join(f"{kind} {share:.0%}" for kind, share in self.kinds.items())
        return f"boxes {self.boxed:.0%}, right {self.right:.0%} ({kinds})"


class Teaching:
    """A model on its way, and where it stands: after `step` steps, the `looks` of the probe so far.

    What is looked at and written is `average`, of the weights after the latest steps: the learning rate does not fall,
    and the average is without what the last few lessons happened to be.

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
            model.parameters(), lr=self.course.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self._averaged = AveragedModel(model, multi_avg_fn=_average)

    @property
    def average(self) -> PreTrainedModel:
        """The model with its weights averaged over the latest steps; as it was before the first."""
        assert isinstance(self._averaged.module, PreTrainedModel)
        return self._averaged.module

    def teach(self) -> None:
        """Take the next step."""
        self.learn(self.practice.rows(self.step, self.known))

    @property
    def known(self) -> dict[Kind, float]:
        """Which share of each kind the latest look found right; an odd one, where a course ended, does not count."""
        due = (look.kinds for look in reversed(self.looks) if look.step % self.course.probe_every == 0)
        return next(due, {})

    def learn(self, rows: Sequence[Row]) -> None:
        """Take one step on these rows.

        Raises
        ------
        FedReasonError
            WARMUP_DIVERGED where the loss is no number.
        """
        words = sum(len(row.completion) for row in rows)
        total = 0.0
        for some in packs(rows, _ROW_TOKENS if self._together else 0):
            with repeatable(self.device.type):
                with precision(self.device):
                    loss = completion_loss(self.model, packed(some, self.device)) / words
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
        self._averaged.update_parameters(self.model)
        self.step, self.loss = self.step + 1, total

    @cached_property
    def _together(self) -> bool:
        """Whether rows are blind to one another in this model: a row beside itself costs twice what it costs."""
        row, *_ = self.practice.rows(0, {})
        with torch.no_grad():
            alone = float(completion_loss(self.model, packed([row], self.device)))
            try:
                together = float(completion_loss(self.model, packed([row, row], self.device)))
            except KeyError:  # a kind of layer that no mask is known for
                return False
        return math.isclose(2 * alone, together, rel_tol=_SAME)

    def look(self) -> Look:
        """Ask the probe, and keep what was found."""
        self.looks.append(self.ask("probe"))
        return self.looks[-1]

    def ask(self, name: str) -> Look:
        """Have the model answer the exam of that name as a run's questions are answered, by `precision`."""
        return look(self.average, self.practice.tokenizer, self.practice.exam(name), self.course, self.step)

    def save(self, path: Path) -> None:
        """Write all that is needed to go on; whole or not at all."""
        fresh = path.with_name(path.name + ".new")
        state = {
            "step": self.step,
            "looks": [asdict(look) for look in self.looks],
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._averaged.state_dict(),
        }
        with fresh.open("wb") as file:  # by its name torch would not say why it cannot be written
            torch.save(state, file)
        fresh.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from where it was saved.

        Raises
        ------
        FedReasonError
            WARMUP_OTHER where the file cannot be read.
        """
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            self.model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._averaged.load_state_dict(state["average"])
            self.step, self.looks = state["step"], [Look(**look) for look in state["looks"]]
        except Exception as error:  # torch and pickle raise whatever a damaged file makes them raise
            raise FedReasonError(
                Code.WARMUP_OTHER,
                f"{path} cannot be read ({type(error).__name__}).",
                "Remove its folder to begin anew.",
            ) from None


def _average(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
    """Average by polynomial decay, in place (Shamir and Zhang 2013, section 4): a step counts more the later it is."""
    share = _LATEST / (float(steps) + _LATEST)
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, share)


def precision(device: torch.device) -> AbstractContextManager[Any]:
    """Products in bfloat16, over weights in float32, on a GPU and on a processor that has instructions for them."""
    able = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or any(able.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


def completion_loss(model: PreTrainedModel, row: PackedRow) -> Tensor:
    """Sum of the negative log-probabilities of a row's counted tokens; only their logits are computed."""
    visible = None
    if int(row.segment.max()) > 1:
        visible = by_layer(model, lambda window: dense(model, row.visible(window)[None, None]))
    out = model(
        input_ids=row.tokens[None],
        attention_mask=visible,
        position_ids=row.positions[None],
        use_cache=False,
        logits_to_keep=row.sources,
    )
    return F.cross_entropy(out.logits[0].float(), row.targets, reduction="sum")


def packs(rows: Sequence[Row], longest: int) -> list[list[Row]]:
    """Put rows together into rows of at most so many tokens; a longer one stands alone.

    What begins alike comes together, such as those of one record, and with nothing that would have it there twice.
    """
    found: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.prompt):
        if found and _tokens([*found[-1], row]) <= min(longest, _tokens(found[-1]) + len(row)):
            found[-1].append(row)
        else:
            found.append([row])
    return found


def packed(rows: Sequence[Row], device: torch.device) -> PackedRow:
    """Write rows as one: what all prompts begin with, once, then each row's rest."""
    shared = _shared(rows)
    rests = [[*row.prompt[shared:], *row.completion] for row in rows]
    return shared_row(rows[0].prompt[:shared], rests, [len(row.completion) for row in rows], device)


def _shared(rows: Sequence[Row]) -> int:
    places = zip(*(row.prompt for row in rows), strict=False)
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, places))


def _tokens(rows: Sequence[Row]) -> int:
    shared = _shared(rows)
    return shared + sum(len(row) - shared for row in rows)


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
    kinds: dict[Kind, list[bool]] = defaultdict(list)
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
