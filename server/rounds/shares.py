"""Shares that follow from what sites count, of which any may send anything: right answers, rewards."""

from __future__ import annotations

from collections.abc import Mapping

from common.config import RunConfig
from common.guard import ASKED, BOXED, KINDS, OTHER, RIGHT
from common.sums import ASKED as HELD_OUT_ASKED

HELD_OUT = "held-out"
"""Share of held-out questions answered rightly, where sites let these counts out: for the guard, their median."""

_ITEMS, _KINDS, _CHARACTERS = 10_000, 16, 500
"""Most items that a site counts, most kinds of counts of one, and most characters of a name."""

Counts = Mapping[str, int]
Shares = dict[str, float]


def shares_of(counts: Counts) -> Shares | None:
    """Return the shares of the questions asked; None where the counts cannot be those of any answers."""
    asked = counts.get(ASKED, 0)
    possible = set(counts) == set(KINDS) and asked > 0
    if not possible or not 0 <= counts[RIGHT] <= counts[BOXED] <= asked or not 0 <= counts[OTHER] <= counts[BOXED]:
        return None
    return {kind: counts[kind] / asked for kind in (BOXED, RIGHT, OTHER)}


def possible(counts: Mapping[str, Counts], config: RunConfig) -> bool:
    """Whether held-out counts can be those of a site: of the run's items, none asked less often than it is right.

    No patient is asked for an item twice, and the run states how many patients train. Where the counts may hold noise,
    ten standard deviations of it are allowed on each, and the items are not looked at: then they are totals.
    """
    questions, privacy = config.questions, config.privacy
    most = config.federation.population / max(1 - questions.held_out, 0.01)
    sigma = None if privacy is None else privacy.metrics_sigma
    noise = 10 * (sigma or 0)
    if privacy is not None and sigma is not None:
        most = most * privacy.metrics_questions + noise
    elif questions.weights and not counts.keys() <= questions.weights.keys():
        return False
    return len(counts) <= _ITEMS and all(
        len(item) <= _CHARACTERS
        and len(of) <= _KINDS
        and all(len(kind) <= _CHARACTERS for kind in of)
        and of.get(HELD_OUT_ASKED, 0) <= most
        and all(-noise <= count <= max(0, of.get(HELD_OUT_ASKED, 0)) + 2 * noise for count in of.values())
        for item, of in counts.items()
    )


def mean_reward(counts: Mapping[str, float] | None) -> float | None:
    """Return the mean reward of a round's rollouts, each of 0 to 1; None where the counts are none, or of no rollouts.

    No noise is in them: what is out of this range is what no site counts.
    """
    rollouts, reward = ((counts or {}).get(name, 0) for name in ("rollouts", "reward"))
    return reward / rollouts if rollouts >= 1 and 0 <= reward <= rollouts else None


def lost_text(lost: Shares, shares: Shares) -> str:
    """Say from what to what each share fell that was lost."""
    return ", ".join(f"{kind} from {before:.2f} to {shares[kind]:.2f}" for kind, before in lost.items())
