r"""Which of the offered choices a completion boxes: the one parser behind reward, evaluation and their counts.

A *box* is `\boxed{...}`, `\fbox{...}` or `\framebox[2cm]{...}` with its braces balanced, escaped ones aside, or one
of them before a bare letter. A box inside a box is part of it; one that is never closed is none. It holds an *answer*
where one offered letter stands in it, by itself or before its own choice's text:

- LaTeX, case and white space are read through (`latex.py`), and so are emphasis, quotes, brackets and punctuation.
- Before the letter may stand words that only announce it: "option", "choice", "the final answer is".
- Between letter and text may stand a dash, an arrow or punctuation.
- A number is what it is worth: `2.50` and `2.5` say the same, where the choices do not differ in just that.
- A choice that is a number may carry a unit: some words without a number, a lone letter or another choice among them.

All else is no answer: a choice's text without its letter, a letter that is not offered, two letters, the text of
another choice, a struck letter (`\cancel`), an unknown macro. Where a run has the text boxed, that is the answer, and
the letter alone is none. Time is linear in the completion, and nothing raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from common.config import AnswerBox, AnswerForm
from common.questions.latex import unadorned
from common.questions.question import LETTERS, Question


@dataclass(frozen=True)
class Answer:
    """What a completion answers.

    Attributes
    ----------
    chosen
        Index of the choice; None where no box holds an answer.
    disagrees
        Whether boxes hold different answers.
    """

    chosen: int | None
    disagrees: bool


def parse_answer(
    completion: str, choices: Sequence[str], box: AnswerBox = "first", form: AnswerForm = "letter"
) -> Answer:
    """Return the answer of the first, or the last, box that holds one among the choices."""
    texts, read = _texts(choices)
    named = _answered if form == "letter" else _told
    found = [index for content in boxes(completion) if (index := named(read(content), texts)) is not None]
    chosen = None if not found else found[0] if box == "first" else found[-1]
    return Answer(chosen, len(set(found)) > 1)


def reward(given: Answer, question: Question) -> float:
    """1 where the answer is the right one, else 0."""
    return float(given.chosen == question.answer)


_SCANNED = re.compile(
    r"(?P<slashes>\\+)(?:(?P<box>(?:boxed|fbox|framebox)(?![a-zA-Z]))\s*+(?P<open>(?:\[[^][{}]*\]\s*+){0,2}\{)?)?|[{}]"
)
_BARE = re.compile(r"[a-zA-Z](?![a-zA-Z0-9])")


def boxes(completion: str) -> list[str]:
    r"""Contents of the boxes that are closed, outermost ones, in order. `\\boxed` is a box too, `\{` is no brace."""
    found: list[tuple[int, str]] = []
    open_braces: list[int | None] = []  # where the content of a box starts; None for any other brace
    place = 0
    while match := _SCANNED.search(completion, place):
        place = match.end()
        if match["open"]:
            open_braces.append(place)
        elif match["box"]:
            if bare := _BARE.match(completion, place):
                found.append((place, bare[0]))
        elif match["slashes"]:
            escapes = len(match["slashes"]) % 2 == 1 and completion[place : place + 1] in ("{", "}")
            place += escapes
        elif match[0] == "{":
            open_braces.append(None)
        elif open_braces and (start := open_braces.pop()) is not None:
            while found and found[-1][0] >= start:
                found.pop()
            found.append((start, completion[start : match.start()]))
    return [content for _, content in found]


_OPENING = "\\s(\\[{\"'*_`|.→"
_AROUND = " ()[]{}\"'*_`|.,:;=!?。、→"
_ANNOUNCED = re.compile(
    rf"[{_OPENING}]*+(?:(?:the|my|final|correct|right|best|ans|answer|option|choice|letter|is)\b[{_OPENING}:=]*+)*"
)
_LETTER = re.compile(rf"(?P<open>[{_OPENING}<]*)(?P<letter>[{LETTERS.lower()}])(?![^\W_])")
_CLOSING = re.compile(rf"[{_OPENING})\]}}:;,=≈!?/。、]*")
_DASH = re.compile(r"(-{1,3})( ?)")
_ARROW = re.compile(r"[\s:;,)\]}.]*+[-=]{1,3}>")
_LETTERS = frozenset(LETTERS.lower())
_NUMBER = re.compile(r"[<>≤≥]?[-+]?\d+(?:\.\d+)?")
_VALUE = re.compile(r"(?<![\w.])(?P<sign>[-+]?)(?P<whole>[0-9]*+)(?:\.(?P<part>[0-9]++))?(?<=[0-9])(?!\.?[0-9])")
_SCALED = re.compile(
    r"(?P<limit>[<>≤≥]?)(?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,15})?)"
    r"(?: ?[\N{MULTIPLICATION SIGN}x*·] ?10\^|e)(?P<power>[-+]?[0-9]{1,2})(?![0-9.])"
)
_UNIT = re.compile(r"[^\W\d_]|[°%‰/\N{MULTIPLICATION SIGN}*·$€]|10(?:\^-?\d|\d+/)|1\.73(?!\d)")
_PIECE = re.compile(r"(?:1\.73|\w)\w*(?:\^-?\d+|-\d(?!\d))?/?")
"""Of a unit's word, between signs; with an exponent, and the slash after it."""
_DAY = ("24", "24h")
_MOST_UNIT_WORDS = 5


def _texts(choices: Sequence[str]) -> tuple[list[str], Callable[[str], str]]:
    """Return the choices as they are compared, and how a text is read to be compared with them."""
    plain = [unadorned(choice) for choice in choices]
    valued = [_valued(text) for text in plain]
    if len(set(valued)) == len(set(plain)):
        return valued, lambda text: _valued(unadorned(text))
    return plain, unadorned


def _answered(content: str, choices: Sequence[str]) -> int | None:
    """Index of the choice that a box's content names; both are unadorned."""
    announced = _ANNOUNCED.match(content)
    named = _LETTER.match(content, announced.end() if announced else 0)
    if named is None or (index := LETTERS.lower().index(named["letter"])) >= len(choices):
        return None
    rest = content[named.end() :].removeprefix(">" if "<" in named["open"] else "")
    closing = _CLOSING.match(rest)
    mark = closing[0] if closing else ""
    told = rest[len(mark) :].rstrip(_AROUND)
    others = [*choices[:index], *choices[index + 1 :]]
    if not told:
        return index
    if _bare(told) == _bare(choices[index]):
        # Where choices are letters themselves, "A. B" is the line as it was offered; "A, B" is two letters.
        return index if told not in _LETTERS or set(mark) & set(".:)→") else None
    readings = [told, *_parted(rest, mark, told)]
    if any(_says(reading, other, others) for reading in readings for other in others):
        return None
    own = any(reading == named["letter"] or _says(reading, choices[index], others) for reading in readings)
    return index if own else None


def _told(content: str, choices: Sequence[str]) -> int | None:
    """Index of the one choice that a box's content says, where the text of a choice is the answer."""
    said = content.strip(_AROUND)
    found = [i for i, choice in enumerate(choices) if _says(said, choice, [*choices[:i], *choices[i + 1 :]])]
    return found[0] if len(found) == 1 else None


def _parted(rest: str, mark: str, told: str) -> Iterator[str]:
    """Yield what is told where a dash or an arrow parts it from the letter; right after a mark a dash is a sign."""
    if arrow := _ARROW.match(rest):
        yield rest[arrow.end() :].strip(_AROUND)
    elif dash := _DASH.match(told):
        if dash[2]:
            yield told[dash.end() :].strip(_AROUND)
        elif not mark.strip():
            yield from (told[length:].rstrip(_AROUND) for length in range(1, dash.end() + 1))


def _says(told: str, choice: str, others: Sequence[str]) -> bool:
    """Whether a text is a choice's, white space and what stands around it aside, or its number with a unit."""
    return any(_same(reading, choice, others) for reading in (told, _SCALED.sub(_written_out, told, count=1)))


def _same(told: str, choice: str, others: Sequence[str]) -> bool:
    if _bare(told) == _bare(choice):
        return True
    unit = told.removeprefix(choice)
    if unit == told or not _NUMBER.fullmatch(choice) or re.match(r"[.,]?\d", unit):
        return False
    words = [word for each in unit.split() if (word := each.strip(_AROUND))]
    pieces = [piece for word in words for piece in _PIECE.findall(word)]
    phrase = f" {' '.join(words + pieces)} "
    return (
        len(words) <= _MOST_UNIT_WORDS
        and all(_UNIT.match(word) and word not in _LETTERS for word in words)
        and all(_UNIT.match(piece) or piece in _DAY for piece in pieces)
        and not any(f" {other.strip(_AROUND)} " in phrase for other in others)
    )


def _valued(text: str) -> str:
    """Write each number of a text in one way: `+02.50` as `2.5`, `3.0` as `3`, `.5` as `0.5`."""
    return _VALUE.sub(_number, text)


def _number(match: re.Match[str]) -> str:
    whole, part = match["whole"].lstrip("0") or "0", (match["part"] or "").rstrip("0")
    number = f"{whole}.{part}" if part else whole
    return f"-{number}" if match["sign"] == "-" and number != "0" else number


def _written_out(match: re.Match[str]) -> str:
    """Write a number out that is given with a power of ten."""
    return match["limit"] + _valued(f"{Decimal(match['number']).scaleb(int(match['power'])):f}")


def _bare(text: str) -> str:
    return text.strip(_AROUND).replace(" ", "")
