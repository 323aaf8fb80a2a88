"""The guard's public questions hold nothing of a record, are the same at every site, and cost no budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from client.privacy.ledger import Ledger
from client.training import public, requests
from client.training.workplace import Workplace
from common.codebook import Codebook
from common.config import RunConfig
from common.guard import ASKED, PUBLIC, GuardConfig
from common.messages.frames import reply_frame
from common.messages.kinds import Evaluation, Task
from common.questions.prompt import question_text
from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream
from tests.privacy_checks import Check
from tests.privacy_checks.leakage import PRIVACY, STRICT, overheard, run_of
from tests.sentinels import hits, rows, site_of

QUESTIONS = 16


def check_public(changes: Mapping[str, Callable[..., Any]]) -> bool:
    """Two sites with other records ask and answer the same; no sentinel is asked, told or sent, and nothing charged."""
    private = run_of(3, PRIVACY)
    config = private.model_copy(update={"guard": GuardConfig(questions=QUESTIONS)})
    asked: list[list[str]] = []
    sent: list[Evaluation] = []
    answer = public.answer

    def heard_answer(model: Any, tokenizer: Any, questions: Any, *how: Any, **more: Any) -> Any:
        asked.append([question_text(question) for question in questions])
        return answer(model, tokenizer, questions, *how, **more)

    with TemporaryDirectory() as name, overheard() as heard, contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(public, "answer", heard_answer))
        for target, changed in changes.items():
            stack.enter_context(patch(target, changed))
        charged = False
        for site, count in (("north", 4), ("south", 31)):
            place = Workplace(site_of(Path(name) / site, rows(site, count), STRICT))
            size = place.engine(config).layout.size
            adapter = np.full(size, 0.01, dtype=np.float32)
            reply = requests.evaluate(place, Task(config, 1, 0, adapter, public=True))
            charged |= bool(Ledger.opened(place.folder).entries())
            sent.append(reply)
        told = heard.getvalue().encode() + b"".join(map(reply_frame, sent))
        told += "\n".join(text for texts in asked for text in texts).encode()
    counted = [reply.counts for reply in sent]
    alike = asked[:1] == asked[1:] and counted[0] == counted[1]
    whole = counted[0] is not None and counted[0].get(PUBLIC, {}).get(ASKED) == QUESTIONS
    return alike and whole and not charged and not hits(told)


def of_records(codebook: Codebook, config: RunConfig, tries: int) -> Iterator[Question]:
    """Break: ask the records of a site."""
    maker, stream = QuestionMaker(codebook, config.questions.view), Stream.named(config.seed)
    for row in rows("north", tries):
        shown = {name: text for name, each in codebook.by_name.items() if (text := each.shown(row[name])) is not None}
        yield from maker.draw(Patient(row["case"], shown), 1, stream)


def own_seed(codebook: Codebook, config: RunConfig, tries: int) -> Iterator[Question]:
    """Break: draw the questions anew at each site."""
    fresh = config.model_copy(update={"seed": Stream.private().below(2**31)})
    return _public_questions(codebook, fresh, tries)


_public_questions = public.public_questions

CHECKS = [
    Check(
        "leakage: public questions",
        partial(check_public, {}),
        {
            "the questions of the records": partial(
                check_public, {"client.training.public.public_questions": of_records}
            ),
            "held-out questions, charged": partial(
                check_public, {"client.training.requests._public_evaluation": requests._evaluation}
            ),
            "other questions at each site": partial(
                check_public, {"client.training.public.public_questions": own_seed}
            ),
        },
    )
]
