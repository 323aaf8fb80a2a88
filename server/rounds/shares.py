"""Shares that follow from what sites count, of which any may send anything: right answers, rewards."""

from __future__ import annotations

from collections.abc import Mapping

from common.guard import ASKED, BOXED, KINDS, OTHER, RIGHT

HELD_OUT = "held-out"
"""Share of held-out questions answered rightly, where sites let these counts out: for the guard, their median."""

Counts = Mapping[str, int]
Shares = dict[str, float]


def shares_of(counts: Counts) -> Shares | None:
    """Return the shares of the questions asked; None where the counts cannot be those of any answers."""
    asked = counts.get(ASKED, 0)
    possible = set(counts) == set(KINDS) and asked > 0
    if not possible or not 0 <= counts[RIGHT] <= counts[BOXED] <= asked or not 0 <= counts[OTHER] <= counts[BOXED]:
        return None
    return {kind: counts[kind] / asked for kind in (BOXED, RIGHT, OTHER)}


def mean_reward(counts: Mapping[str, float] | None) -> float | None:
    """Return the mean reward of a round's rollouts, each of 0 to 1; None where the counts are none, or of no rollouts.

    No noise is in them: what is out of this range is what no site counts.
    """
    rollouts, reward = ((counts or {}).get(name, 0) for name in ("rollouts", "reward"))
    return reward / rollouts if rollouts >= 1 and 0 <= reward <= rollouts else None


def lost_text(lost: Shares, shares: Shares) -> str:
    """Say from what to what each share fell that was lost."""
    return ", ".join(f"{kind} from {before:.2f} to {shares[kind]:.2f}" for kind, before in lost.items())
