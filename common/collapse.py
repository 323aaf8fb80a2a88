"""How training collapses, read off what is counted of its steps: the site's log and the coordinator's tell it alike.

A policy that has collapsed answers alike whatever it is asked. Its reward may stay as it was: it is not seen there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LETTERS = ("letter_a", "letter_b", "letter_c", "letter_d", "letter_e")
"""Counts of the completions whose answer is that letter."""
_STEPS = 3
"""Steps that are looked at together: the latest, and the first."""
_QUESTIONS = 8
"""Of fewer nothing can be said."""
ONE_LETTER = 0.8
"""No letter is right so often: where choices are shuffled each is, in one question of as many as there are choices."""
_RIGHT = 0.9
"""Groups that agree since nearly all are right have learnt what there is to learn."""
_RISEN = 0.25

Counted = Mapping[str, float]


def collapse(steps: Sequence[Counted]) -> tuple[str, ...]:
    """Name what has collapsed in the latest of a run's steps, in words; nothing where it goes well.

    Parameters
    ----------
    steps
        Counts of each step in order: questions, rollouts, reward (their sum), zero_variance, truncated, and LETTERS.
    """
    now, first = _added(steps[-_STEPS:]), _added(steps[:_STEPS])
    if now["questions"] < _QUESTIONS:
        return ()
    letters = [now[name] for name in LETTERS]
    boxed = sum(letters)
    found = []
    if boxed == 0:
        found.append("no completion boxes an answer")
    else:
        if (told := one_letter(max(letters), boxed, "ABCDE"[letters.index(max(letters))])) is not None:
            found.append(told)
        if now["zero_variance"] == now["questions"] and now["reward"] < _RIGHT * now["rollouts"]:
            found.append("all completions of every question get the same reward")
    cut, before = _share(now), _share(first)
    if cut > before + _RISEN:
        found.append(f"{cut:.0%} of the completions reach no end, {before:.0%} did at first")
    return tuple(found)


def one_letter(most: float, boxed: float, letter: str = "one letter") -> str | None:
    """Say that a letter is nearly all that is boxed, None where it is not."""
    return f"{letter} is {most / boxed:.0%} of the boxed answers" if boxed and most > ONE_LETTER * boxed else None


def _added(steps: Sequence[Counted]) -> dict[str, float]:
    names = ("questions", "rollouts", "reward", "zero_variance", "truncated", *LETTERS)
    return {name: sum(step.get(name, 0) for step in steps) for name in names}


def _share(added: Counted) -> float:
    return added["truncated"] / added["rollouts"] if added["rollouts"] else 0.0
