"""How training collapses, read off what is counted of its steps: the site's log and the coordinator's tell it alike.

A policy that has collapsed answers alike whatever it is asked, or writes what is no answer. What is looked at are sums
over the latest steps, as many as it takes to tell chance from a fall; nothing of it is used in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

LETTERS = ("letter_a", "letter_b", "letter_c", "letter_d", "letter_e")
"""Counts of the completions whose answer is that letter."""
_COUNTS = ("questions", "rollouts", "reward", "zero_variance", "unboxed", "truncated", *LETTERS)
_STEPS, _QUESTIONS = 2, 16
"""Least steps and questions that are looked at together."""
ONE_LETTER = 0.8
"""No letter is right so often: where choices are shuffled each is, in one question of as many as there are choices."""
_AGREED, _RIGHT = 0.95, 0.9
"""Of nearly all groups that agree nothing is learnt; where nearly all are right, there is nothing more to learn."""
_RISEN, _FALLEN, _ERRORS = 0.1, 0.15, 3.0
"""A share has risen, or a reward fallen, that is so much and so many standard errors beyond what was before.

A standard error is that of so many questions, whose completions may all be alike.
"""

_MOST = 1e12
Counted = Mapping[str, float]


def collapse(steps: Sequence[Counted]) -> tuple[str, ...]:
    """Name what has collapsed in the latest of a run's steps, in words; nothing where it goes well.

    Parameters
    ----------
    steps
        Counts of each step in order: questions, rollouts, reward (their sum), zero_variance, unboxed, truncated, and
        LETTERS, which may be left out: then no letter is looked for.
    """
    begins = _begin(steps)
    if begins is None:
        return ()
    now, found = _added(steps[begins:]), list[str]()
    letters = [now[name] for name in LETTERS]
    first = _first(steps)
    if now["unboxed"] >= now["rollouts"]:
        found.append("no completion boxes an answer")
    else:
        letter = "ABCDE"[letters.index(max(letters))]
        if (told := one_letter(max(letters), sum(letters), letter, now["questions"])) is not None:
            found.append(told)
        agreed = now["zero_variance"] / now["questions"]
        if agreed >= _AGREED and _share(now, "reward") < _RIGHT:
            found.append(f"next to nothing is learnt: in {agreed:.0%} of the groups all completions get one reward")
        found += _risen(now, first, "unboxed", "box no answer")
    found += _risen(now, first, "truncated", "reach no end")
    return (*found, *_fallen(now, steps[:begins]))


def one_letter(most: float, boxed: float, letter: str = "one letter", questions: float = math.inf) -> str | None:
    """Say that a letter is nearly all that is boxed, None where it is not, or may be so by chance.

    Of two choices each is right in half of the questions, and in more of a few.
    """
    limit = max(ONE_LETTER, 0.5 + _ERRORS * math.sqrt(0.25 / questions))
    return f"{letter} is {most / boxed:.0%} of the boxed answers" if boxed and most > limit * boxed else None


def _risen(now: Counted, first: Counted, name: str, what: str) -> list[str]:
    share, before = _share(now, name), _share(first, name)
    rise = max(_RISEN, _ERRORS * _error(share, now, before, first))
    return [f"{share:.0%} of the completions {what}, {before:.0%} did at first"] if share > before + rise else []


def _error(share: float, now: Counted, before: float, then: Counted) -> float:
    """Return the standard error of a difference of two means; that of a question varies by at most r (1 - r)."""
    return math.sqrt(share * (1 - share) / now["questions"] + before * (1 - before) / then["questions"])


def _fallen(now: Counted, before: Sequence[Counted]) -> list[str]:
    """Say that the reward is far below the best before."""
    parts = (before[: end + 1] for end in range(len(before)))
    windows = [_added(part[begins:]) for part in parts if (begins := _begin(part)) is not None]
    best = max(windows, key=lambda window: _share(window, "reward"), default=None)
    if best is None:
        return []
    high, low = _share(best, "reward"), _share(now, "reward")
    told = f"the mean reward fell from {high:.2f} to {low:.2f}"
    return [told] if high - low > max(_FALLEN, _ERRORS * _error(low, now, high, best)) else []


def _begin(steps: Sequence[Counted]) -> int | None:
    """Return where the latest steps begin that are enough to tell something; None where all are not."""
    questions = 0.0
    for begins in range(len(steps) - 1, -1, -1):
        questions += _count(steps[begins], "questions")
        if questions >= _QUESTIONS and len(steps) - begins >= _STEPS:
            return begins
    return None


def _first(steps: Sequence[Counted]) -> Counted:
    """Return the counts of the first steps that are enough."""
    ends = (end for end in range(1, len(steps) + 1) if _begin(steps[:end]) is not None)
    return _added(steps[: next(ends, len(steps))])


def _added(steps: Sequence[Counted]) -> dict[str, float]:
    return {name: sum(_count(step, name) for step in steps) for name in _COUNTS}


def _count(step: Counted, name: str) -> float:
    """Return a count; one that can be none, since a site may send anything, as the nearest that can."""
    count = step.get(name, 0)
    return min(max(count, 0), _MOST) if count == count else 0


def _share(added: Counted, name: str) -> float:
    return min(1.0, added[name] / added["rollouts"]) if added["rollouts"] else 0.0
