"""Accuracy on held-out questions: free-form (what the model boxes itself) and forced (the likeliest choice)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from common.config import GrpoConfig
from common.decoding.ends import Ends, ends_of
from common.decoding.generate import generate, left_pad, positions
from common.questions.answer import parse_answer
from common.questions.prompt import FORCING, prompt_tokens
from common.questions.question import LETTERS, Question

_MOST_ROWS, _MOST_TOKENS = 64, 2**16
_BOX_OPENS = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*(?:\[[^][{}]*\]\s*){0,2}\{?")


def batch_rows(prompt: int, completion: int) -> int:
    """Return how many questions of that many prompt tokens are answered at once, with room for their completions."""
    return min(_MOST_ROWS, max(1, _MOST_TOKENS // (prompt + completion)))


@dataclass(frozen=True)
class Answered:
    """One question's outcome.

    Attributes
    ----------
    chosen
        Index of the choice that is boxed, None where none is.
    forced
        The same, and where none is boxed the likeliest.
    disagrees
        Whether boxes of the completion hold different answers.
    """

    completion: str
    chosen: int | None
    forced: int
    disagrees: bool


@torch.no_grad()
def answer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    grpo: GrpoConfig,
    *,
    forced: bool = True,
) -> list[Answered]:
    """Answer each question greedily; where none is boxed, force the likeliest after "the answer is".

    What is read, how long an answer may be and what is boxed is as in a run's rollouts.
    With `forced` false the forced index repeats the chosen one (-1 where there is none), which saves a pass.
    """
    max_tokens, words, ends = grpo.max_completion_tokens, grpo.prompt, ends_of(model, tokenizer)
    tokens = [prompt_tokens(question, tokenizer, words) for question in questions]
    result: dict[int, Answered] = {}
    for batch in _batches(tokens, max_tokens):
        prompts = [tokens[i] for i in batch]
        done = generate(model, prompts, group_size=1, max_tokens=max_tokens, ends=ends, pad=tokenizer.pad_token_id)
        written = [row[:length] for row, length in zip(done.tokens.tolist(), done.mask.sum(1).tolist(), strict=True)]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        given = [
            parse_answer(text, questions[i].choices, grpo.answer_box, words.answer)
            for text, i in zip(texts, batch, strict=True)
        ]
        letters = [-1 if each.chosen is None else each.chosen for each in given]
        missing = [k for k, each in enumerate(given) if each.chosen is None]
        if forced and missing:
            told = [prompts[k] + without_end(written[k], ends) for k in missing]
            likeliest = forced_letters if words.answer == "letter" else forced_texts
            forced_ones = likeliest(model, tokenizer, told, [questions[batch[k]] for k in missing])
            for k, letter in zip(missing, forced_ones, strict=True):
                letters[k] = letter
        for k, i in enumerate(batch):
            result[i] = Answered(texts[k], given[k].chosen, letters[k], given[k].disagrees)
    return [result[i] for i in range(len(questions))]


def _batches(tokens: Sequence[Sequence[int]], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of the prompts that are answered at once, the longest first."""
    longest_first = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    while longest_first:
        rows = batch_rows(len(tokens[longest_first[0]]), max_tokens)
        yield longest_first[:rows]
        longest_first = longest_first[rows:]


def without_end(tokens: Sequence[int], ends: Ends) -> list[int]:
    """Tokens of a completion without its end."""
    return [token for token in tokens if token not in ends]


@torch.no_grad()
def forced_letters(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    questions: Sequence[Question],
) -> list[int]:
    """Likeliest letter among each question's own after the forcing text."""
    forcing = tokenizer(FORCING, add_special_tokens=False)["input_ids"]
    told = [[*prompt, *forcing] for prompt in prompts]
    return [int(row.argmax()) for row in _letter_scores(model, tokenizer, told, questions)]


@torch.no_grad()
def letter_probabilities(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    completions: Sequence[str],
    grpo: GrpoConfig,
) -> list[tuple[float, ...]]:
    """Return the probability of each question's own letters, which add up to 1, where its completion gives one.

    That is right behind the opening of its first box, and where it has none behind the forcing text.
    """
    tokens = [
        [
            *prompt_tokens(question, tokenizer, grpo.prompt),
            *tokenizer(up_to_letter(text), add_special_tokens=False)["input_ids"],
        ]
        for question, text in zip(questions, completions, strict=True)
    ]
    result: dict[int, tuple[float, ...]] = {}
    for batch in _batches(tokens, grpo.max_completion_tokens):
        scores = _letter_scores(model, tokenizer, [tokens[i] for i in batch], [questions[i] for i in batch])
        for i, row in zip(batch, scores, strict=True):
            result[i] = tuple(torch.softmax(row.double(), dim=0).tolist())
    return [result[i] for i in range(len(questions))]


def up_to_letter(completion: str) -> str:
    """Return a completion until its first box opens; where it has none, whole and with the forcing text."""
    box = _BOX_OPENS.search(completion)
    return completion.rstrip() + FORCING if box is None else completion[: box.end()]


def _letter_scores(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    questions: Sequence[Question],
) -> list[torch.Tensor]:
    """Logits of each question's own letters behind its prompt."""
    letters = torch.tensor([tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in LETTERS])
    ids, mask = left_pad(prompts, tokenizer.pad_token_id, next(model.parameters()).device)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), logits_to_keep=1).logits[:, -1]
    scores = logits.float().cpu()[:, letters]
    return [row[: len(question.choices)] for row, question in zip(scores, questions, strict=True)]


@torch.no_grad()
def forced_texts(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    questions: Sequence[Question],
) -> list[int]:
    """Likeliest choice of each question, its whole text and the closing brace, after the forcing text."""
    forcing = tokenizer(FORCING, add_special_tokens=False)["input_ids"]
    device, found = next(model.parameters()).device, []
    for prompt, question in zip(prompts, questions, strict=True):
        texts = [tokenizer(f"{choice}}}", add_special_tokens=False)["input_ids"] for choice in question.choices]
        ids, mask = left_pad([[*prompt, *forcing, *text] for text in texts], tokenizer.pad_token_id, device)
        longest = max(map(len, texts))
        out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), logits_to_keep=longest + 1)
        logprobs = torch.log_softmax(out.logits[:, :-1].float(), -1)
        told = logprobs.gather(-1, ids[:, -longest:, None])[..., 0].cpu()
        scores = [float(row[-len(text) :].sum()) for row, text in zip(told, texts, strict=True)]
        found.append(scores.index(max(scores)))
    return found
