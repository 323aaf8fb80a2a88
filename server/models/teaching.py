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

from common.codebook import Codebook
from common.decoding.determinism import repeatable
from common.decoding.evaluate import answer
from common.decoding.generate import left_pad, positions
from common.errors import Code, FedReasonError
from common.questions.prompt import prompt_tokens
from common.questions.question import Question
from common.stream import Stream
from server.models.course import Course
from server.models.lessons import BINDING, Kind, Lesson, Lessons

_RAMP = 20
_FORM_SHARE = 0.2
_SHORTEST = 6
"""Values of a record in the first lessons; a question may need five."""
_TRIES = 16
_TOKENS = {"cpu": 2**11, "cuda": 2**14}
"""Tokens of one pass: what memory holds, and a constant, for the bits depend on it."""


@dataclass(frozen=True)
class Row:
    """Token ids of a lesson's prompt and of its completion, the end among them."""

    prompt: list[int]
    completion: list[int]


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

    def __init__(
        self, course: Course, books: Sequence[Codebook], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.step, self.looks, self.loss = 0, list[Look](), math.nan
        self.course, self.model, self.tokenizer = course, model, tokenizer
        self._device = next(model.parameters()).device
        self._sources = [Lessons(book, source.view) for book, source in zip(books, course.sources, strict=True)]
        self._lines = max(
            len(book.view(source.view).features) for book, source in zip(books, course.sources, strict=True)
        )
        model.requires_grad_(True)
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=course.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )

    def teach(self) -> None:
        """Take one step.

        Raises
        ------
        FedReasonError
            WARMUP_DIVERGED where the loss is no number.
        """
        rows = sorted((self.row(lesson) for lesson in self.lessons(self.step)), key=_length)
        words = sum(len(row.completion) for row in rows)
        total = 0.0
        for some in _passes(rows, _TOKENS.get(self._device.type, _TOKENS["cpu"])):
            with repeatable(self._device.type):
                with self._precision():
                    loss = completion_loss(self.model, some, self.tokenizer.pad_token_id) / words
                loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FedReasonError(
                Code.WARMUP_DIVERGED,
                f"After {self.step} steps the loss is no number any more.",
                "Lower learning_rate; the same command then begins anew.",
            )
        for group in self._optimizer.param_groups:
            group["lr"] = self.course.learning_rate * min(1.0, (self.step + 1) / _RAMP)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step, self.loss = self.step + 1, total

    def lessons(self, step: int) -> list[Lesson]:
        """Draw the lessons of a step, by its number alone."""
        return [self._lesson(("lesson", step, number)) for number in range(self.course.batch)]

    def _lesson(self, name: tuple[str | int, ...]) -> Lesson:
        step, course = int(name[1]), self.course
        for attempt in range(_TRIES):
            stream = Stream.named("warm-up", course.seed, *name, attempt)
            kind: Kind = "form"
            if step >= course.form and stream.uniform() >= _FORM_SHARE:
                kind = BINDING[stream.below(len(BINDING))]
            whole = min(1.0, max(0, step - course.form) / course.lengthen)
            longest = _SHORTEST + round(whole * max(0, self._lines - _SHORTEST))
            lines = _SHORTEST - 1 + stream.below(longest - _SHORTEST + 2)
            lesson = self._sources[stream.below(len(self._sources))].draw(kind, stream, lines)
            if lesson is not None and self._fits(lesson.question):
                return lesson
        raise self._no_lessons()

    def exam(self, name: str) -> list[list[Lesson]]:
        """Draw questions that no step asks, on whole records: of each codebook and kind as many."""
        each = max(1, self.course.probe_questions // (len(BINDING) * len(self._sources)))
        drawn: list[list[Lesson]] = []
        for place, source in enumerate(self._sources):
            streams = (
                (kind, Stream.named("warm-up", self.course.seed, name, place, kind, number))
                for kind in BINDING
                for number in range(each)
            )
            found = [source.draw(kind, stream, self._lines) for kind, stream in streams]
            able = [lesson for lesson in found if lesson is not None and self._fits(lesson.question)]
            if not able:
                raise self._no_lessons()
            drawn.append(able)
        return drawn

    def look(self, exam: Sequence[Sequence[Lesson]]) -> Look:
        """Have the model answer an exam as a run's questions are answered, and keep what was found."""
        found = look(self.model, self.tokenizer, exam, self.course, self.step)
        self.looks.append(found)
        return found

    def row(self, lesson: Lesson) -> Row:
        """Write a lesson as tokens."""
        question, course, tokenizer = lesson.question, self.course, self.tokenizer
        box = question.letter if course.prompt.answer == "letter" else question.truth
        worked = f" {question.truth} \\boxed{{{box}}}"
        tokens: list[int] = []
        for text in (worked, f" \\boxed{{{box}}}") if course.completion == "worked" else (f" \\boxed{{{box}}}",):
            tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            if len(tokens) <= course.max_completion_tokens:
                break
        return Row(prompt_tokens(question, tokenizer, course.prompt), tokens)

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
        """Go on from where it was saved."""
        state: dict[str, Any] = torch.load(path, map_location=self._device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.looks = state["step"], [Look(**look) for look in state["looks"]]

    def _fits(self, question: Question) -> bool:
        return len(prompt_tokens(question, self.tokenizer, self.course.prompt)) <= self.course.max_prompt_tokens

    def _precision(self) -> AbstractContextManager[Any]:
        return precision(self._device)

    def _no_lessons(self) -> FedReasonError:
        return FedReasonError(
            Code.WARMUP_LESSONS,
            "A codebook and its view allow no lesson, or all are longer than max_prompt_tokens "
            f"({self.course.max_prompt_tokens}).",
            "Name a view with five features that are asked, numbers among them, or raise max_prompt_tokens.",
        )


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


def _length(row: Row) -> int:
    return len(row.prompt) + len(row.completion)


def _passes(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Split rows, the shortest first, so that a padded pass holds at most so many tokens."""
    passes: list[list[Row]] = [[]]
    for row in rows:
        if passes[-1] and (len(passes[-1]) + 1) * _length(row) > most:
            passes.append([])
        passes[-1].append(row)
    return passes
