"""What a site has spent, by run, and what a planned run would cost before it starts.

Reading imports nothing heavy: epsilon stands in each line of the ledger. Verifying, planning and telling it at another
delta import the accountant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from client.privacy.chain import LEDGER, ledger_folder, read_chain, recompute, site_keys, summed
from client.privacy.entry import UNIT, Entry
from client.site.anchor import ANCHOR, read_anchor, require_reaches
from common.messages.heads import Head

if TYPE_CHECKING:
    from common.accounting import Mechanism
    from common.arrays import Floats
    from common.config import RunConfig


@dataclass(frozen=True)
class RunSpending:
    """What one run added, in order of the runs' first releases.

    Parameters
    ----------
    epsilon
        By how much the run's releases raised epsilon as they were charged.
    first, last
        When (UTC).
    """

    run: str
    rounds: int
    releases: int
    retries: int
    epsilon: float
    first: str
    last: str


@dataclass(frozen=True)
class Spending:
    """A ledger in short.

    Parameters
    ----------
    epsilon, delta
        Spent, at the delta that was asked for or that of the last release; delta is None where nothing was released.
    prv
        Epsilon by PRV, where the ledger was verified.
    """

    entries: list[Entry]
    head: Head
    epsilon: float
    delta: float | None
    runs: list[RunSpending]
    verified: bool
    prv: float | None


def spending(folder: Path, *, delta: float | None = None, verify: bool = False) -> Spending:
    """Read the ledger of a site folder.

    Parameters
    ----------
    delta
        At which epsilon is told: the policy's, which may have changed since the last release, or that of a run with a
        smaller one, at which the run would be charged. By default that of the last release.
    verify
        Check signatures and every cost too, and compute PRV.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED or LEDGER_ROLLED_BACK where it cannot be trusted.
    """
    place = ledger_folder(folder)
    anchor = read_anchor(folder / ANCHOR, site_keys(folder)) if (folder / ANCHOR).exists() else None
    chain = read_chain(place, site_keys(folder) if verify else None)
    if anchor is not None:
        require_reaches(chain.heads, anchor.head, place / LEDGER, ANCHOR)
    entries, last = chain.entries, chain.entries[-1] if chain.entries else None
    told = (delta or last.release.delta) if last else None
    prv = None
    if verify:
        from common.accounting import prv_epsilon

        recompute(entries, place / LEDGER)
        prv = prv_epsilon([_mechanism(entry) for entry in entries], told) if told else 0.0
    epsilon = epsilon_at(last, told) if last and told else 0.0
    return Spending(entries, chain.heads[-1], epsilon, told, _by_run(entries), verify, prv)


def epsilon_at(entry: Entry, delta: float) -> float:
    """Return what was spent up to a release, at a delta that may be another than its own."""
    if delta == entry.release.delta:
        return entry.epsilon
    from common.accounting import epsilon

    return epsilon(_sum([entry]), delta, total_variation=entry.total_variation_sum)


def ledger_json(
    folder: Path, *, cap: float | None = None, delta: float | None = None, verify: bool = False
) -> dict[str, Any]:
    """Return what was spent, for a program; every release is in it, without its RDP."""
    found = spending(folder, delta=delta, verify=verify)
    return {
        "epsilon": found.epsilon,
        "delta": found.delta,
        "cap": cap,
        "left": None if cap is None else max(0.0, cap - found.epsilon),
        "releases": len(found.entries),
        "verified": found.verified,
        "prv": None if found.prv is None or math.isinf(found.prv) else found.prv,
        "head": found.head._asdict(),
        "runs": [asdict(run) for run in found.runs],
        "entries": [_short(entry) for entry in found.entries],
    }


def ledger_lines(
    folder: Path, *, cap: float | None = None, delta: float | None = None, verify: bool = False
) -> list[str]:
    """Return what was spent and what is left, by run, for a terminal."""
    found = spending(folder, delta=delta, verify=verify)
    lines = [f"{'spent':<10} {_spent(found)}"]
    if cap is not None:
        lines.append(f"{'left':<10} epsilon {max(0.0, cap - found.epsilon):.4g} of {cap:g}")
    for run in found.runs:
        retries = f", {run.retries} of them retries" if run.retries else ""
        lines.append(
            f"{'run':<10} {run.run}: epsilon {run.epsilon:.4g} for {_count(run.rounds, 'round')} in "
            f"{_count(run.releases, 'release')}{retries}, {run.first[:16]} to {run.last[:16]}"
        )
    if found.verified:
        lines.append(f"{'PRV':<10} epsilon {found.prv:.4g}: tighter, and reported only")
        lines.append(f"{'verified':<10} every line, signature and cost, up to line {found.head.sequence}")
    if found.entries:
        lines.append(f"{'head':<10} {found.head.sequence} {found.head.sha256}")
    return lines


class Cost(NamedTuple):
    """An epsilon as the ledger charges it, and by PRV, which is tighter and reported only."""

    epsilon: float
    prv: float

    def __str__(self) -> str:
        """Say both."""
        return f"epsilon {self.epsilon:.4g} (PRV {self.prv:.4g})"


@dataclass(frozen=True)
class Planned:
    """What a private run would cost at a site.

    Parameters
    ----------
    spent, alone, together
        Before it, of it alone, and after it, at the policy's delta.
    curve
        Releases of it so far and epsilon then, from before its first round on.
    allowed
        Rounds of it that end within the cap.
    """

    spent: Cost
    alone: Cost
    together: Cost
    curve: tuple[tuple[int, float], ...]
    allowed: int


def planned(folder: Path, config: RunConfig, *, cap: float, delta: float, counts: bool = True) -> Planned | None:
    """Return what a run would cost at this site before it starts; None for one without [privacy].

    Parameters
    ----------
    cap, delta
        Of the site's policy.
    counts
        Whether the policy lets noised counts leave, where the run asks for them.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED or LEDGER_ROLLED_BACK where the ledger cannot be trusted.
    """
    from common.accounting import epsilon, prv_epsilon

    rounds = _planned(config, counts)
    if rounds is None:
        return None
    found = spending(folder)
    before, variation = _sum(found.entries), found.entries[-1].total_variation_sum if found.entries else 0.0
    history = [_mechanism(entry) for entry in found.entries]
    alone = [mechanism for each in rounds for mechanism in each]
    after, allowed, releases = before, 0, 0
    curve = [(0, epsilon(before, delta, total_variation=variation))]
    for number, each in enumerate(rounds):
        after, releases = after + _cost(each), releases + len(each)
        curve.append((releases, epsilon(after, delta, total_variation=variation)))
        if curve[-1][1] <= cap:
            allowed = number
    return Planned(
        spent=Cost(curve[0][1], prv_epsilon(history, delta)),
        alone=Cost(epsilon(_cost(alone), delta), prv_epsilon(alone, delta)),
        together=Cost(curve[-1][1], prv_epsilon([*history, *alone], delta)),
        curve=tuple(curve),
        allowed=allowed,
    )


def plan(folder: Path, config: RunConfig, *, cap: float, delta: float, counts: bool = True) -> list[str]:
    """Return what a run would cost at this site in words, and what its other ways to noise would; see `planned`."""
    return plan_lines(planned(folder, config, cap=cap, delta=delta, counts=counts), config, cap=cap, delta=delta)


def plan_lines(found: Planned | None, config: RunConfig, *, cap: float, delta: float) -> list[str]:
    """Return what a run would cost as lines for a terminal."""
    from common.mechanisms import mechanism_lines

    mechanisms = [f"{label:<10} {told}" for label, told in mechanism_lines(config, delta)]
    if found is None:
        return [f"{'run':<10} {config.name} has no [privacy]: nothing is charged, and nothing is private.", *mechanisms]
    federation = config.federation
    lines = [
        f"{'run':<10} {config.name}: {_count(federation.rounds, 'round')} of {federation.protocol}, delta {delta:g}",
        f"{'spent':<10} {found.spent}",
        f"{'alone':<10} {found.alone}",
        f"{'together':<10} {found.together}, the cap is {cap:g}",
    ]
    if found.together.epsilon > cap:
        stops = f"after {_count(found.allowed, 'round')}" if found.allowed else "before its first round"
        lines.append(f"{'stops':<10} {stops} of {federation.rounds}: the next release would pass the cap")
    return lines + mechanisms


def _planned(config: RunConfig, counts: bool) -> list[list[Mechanism]] | None:
    """Return what each round releases, from 0: before the first round, counts alone; None without DP."""
    from common.accounting import Mechanism

    privacy, federation, every = config.privacy, config.federation, config.evaluation.every
    if privacy is None:
        return None
    noise_multiplier = privacy.sigma_units / privacy.clip_units
    step = Mechanism(noise_multiplier, federation.sampling_rate, federation.local_steps)
    totals = []
    if counts and privacy.metrics_sigma is not None:
        totals = [Mechanism(privacy.metrics_sigma / privacy.metrics_sensitivity, 1.0, 1)]
    last = federation.rounds
    return [totals] + [
        [step, *(totals if number == last or (every and number % every == 0) else [])] for number in range(1, last + 1)
    ]


def _cost(mechanisms: Sequence[Mechanism]) -> Floats:
    import numpy as np

    from common.accounting import ORDERS, rdp

    return sum((rdp(**each._asdict()) for each in mechanisms), np.zeros(len(ORDERS)))


def _sum(entries: Sequence[Entry]) -> Floats:
    """RDP of all releases, in nats, at the orders of the accountant."""
    import numpy as np

    from common.accounting import ORDERS

    total = summed(entries[-1] if entries else None, ORDERS, (0,) * len(ORDERS))
    return np.array([math.inf if value is None else value * UNIT for value in total])


def _mechanism(entry: Entry) -> Mechanism:
    from common.accounting import Mechanism

    release = entry.release
    return Mechanism(release.noise_multiplier, release.q, release.steps, release.mu)


def _by_run(entries: Sequence[Entry]) -> list[RunSpending]:
    by_run: dict[str, list[Entry]] = {}
    added: dict[str, float] = {}
    before = 0.0
    for entry in entries:
        name = entry.release.run
        by_run.setdefault(name, []).append(entry)
        added[name] = added.get(name, 0.0) + entry.epsilon - before
        before = entry.epsilon
    return [
        RunSpending(
            run=name,
            rounds=len({entry.release.round for entry in own}),
            releases=len(own),
            retries=sum(entry.retry for entry in own),
            epsilon=added[name],
            first=own[0].time,
            last=own[-1].time,
        )
        for name, own in by_run.items()
    ]


def _short(entry: Entry) -> dict[str, Any]:
    left_out = {"orders", "rdp", "rdp_sum"}
    return {name: value for name, value in entry.document.items() if name not in left_out}


def _spent(found: Spending) -> str:
    if found.delta is None:
        return "nothing was released"
    return f"epsilon {found.epsilon:.4g} at delta {found.delta:g}, in {_count(len(found.entries), 'release')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
