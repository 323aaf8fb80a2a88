"""The guard against poisoning: what the sites answer to public questions with the adapter that they were all sent.

It needs nothing of a single site's contribution, and so works where only sums are seen. An adapter whose answers have
fallen too far is not gone on with: the run is put back to the last good round, and stops with a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NoReturn, Protocol

from common.arrays import Vector
from common.collapse import one_letter
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.guard import BOXED, KINDS, OTHER, PUBLIC, RIGHT, GuardConfig
from common.lattice import usable
from common.logs import logger
from common.messages.heads import Gathered
from common.messages.kinds import Evaluation, Refusal, Reply, Task
from common.sums import ASKED, FREE
from server.rounds.refusals import all_told, told
from server.rounds.shares import HELD_OUT, Counts, Shares, lost_text, shares_of
from server.rounds.store import Checkpoint, FallRow, LookRow, RunStore

_log = logger("server")
_EXACT = 1e-9
"""Shares that differ by just a bound do not differ by more, whatever their last bits."""


class Evaluations(Protocol):
    """Asks sites for counts."""

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Yield what comes back."""
        ...


@dataclass(frozen=True)
class Agreed:
    """What the sites agree on, and who says otherwise."""

    shares: Shares
    disagreeing: tuple[str, ...]


def agreed(answers: Mapping[str, Counts], config: GuardConfig) -> Agreed | None:
    """Return what more than half of the sites, and no fewer than the evaluators, say within the tolerance of one.

    None where there are no so many: then nothing is known, and nobody is named. Of several sets the largest counts, of
    these the one of the site that comes first by name.
    """
    shares = {site: found for site, counts in sorted(answers.items()) if (found := shares_of(counts)) is not None}
    around = [
        [
            site
            for site, other in shares.items()
            if all(abs(other[k] - own[k]) <= config.tolerance + _EXACT for k in own)
        ]
        for own in shares.values()
    ]
    largest = max(around, key=len, default=[])
    if len(largest) < config.evaluators or 2 * len(largest) <= len(answers):
        return None
    middle = {kind: median(shares[site][kind] for site in largest) for kind in (BOXED, RIGHT, OTHER)}
    return Agreed(middle, tuple(sorted(answers.keys() - set(largest))))


def collapsed(shares: Shares) -> tuple[str, ...]:
    """Name what has collapsed in the answers to the public questions, which tell of no record."""
    if shares[BOXED] == 0:
        return ("no public question is answered in a box",)
    told = one_letter(shares[BOXED] - shares[OTHER], shares[BOXED])
    return () if told is None else (f"to the public questions {told}",)


def best_of(looks: list[Shares]) -> Shares:
    """Return the best share of each kind that was ever found good."""
    best: Shares = {}
    for shares in looks:
        best |= {kind: max(share, best.get(kind, share)) for kind, share in shares.items()}
    return best


def fallen(shares: Shares, best: Shares, margin: float) -> Shares:
    """Return the best share of each kind that is now more than the margin below it; empty for a good adapter."""
    return {kind: best[kind] for kind in shares if kind in best and best[kind] - shares[kind] > margin + _EXACT}


def held_out_shares(counts: Mapping[str, Mapping[str, Counts]], fewest: int) -> dict[str, float]:
    """Return the share of held-out questions answered rightly by site.

    A site counts that was asked `fewest` questions, so that noise on its counts is not taken for a fall.
    """
    kinds = (FREE, ASKED)
    totals = {site: [sum(item.get(kind, 0) for item in of.values()) for kind in kinds] for site, of in counts.items()}
    return {site: min(max(free, 0), asked) / asked for site, (free, asked) in totals.items() if asked >= fewest}


def held_out_fall(
    now: Mapping[str, float], before: Iterable[Mapping[str, float]], evaluators: int
) -> tuple[Shares, Shares]:
    """Return the held-out share now, and that of the look before since which it fell most; empty of too few sites.

    Both are medians, over the sites that answered at both looks or over all that answered at each, whichever fell less:
    over other sites they differ for an adapter that is the same, since one site's patients are harder to tell than
    another's, and of a few that are common a liar may be half.
    """
    pairs = [
        min(((_middle(now, who), _middle(then, of)) for who, of in ((both, both), (now, then))), key=_drop)
        for then in before
        if len(both := now.keys() & then.keys()) >= evaluators
    ]
    if not pairs:
        return {}, {}
    share, best = max(pairs, key=_drop)
    return {HELD_OUT: share}, {HELD_OUT: best}


def _middle(shares: Mapping[str, float], sites: Iterable[str]) -> float:
    return median(shares[site] for site in sites)


def _drop(pair: tuple[float, float]) -> float:
    return pair[1] - pair[0]


def fewest_asked(config: RunConfig) -> int:
    """Return of how many held-out questions on a share tells something: noise moves it by a twentieth, seldom more."""
    if config.privacy is None or config.privacy.metrics_sigma is None:
        return 1
    return 20 * config.privacy.metrics_sigma


class Guard:
    """Looks at a run's adapter every so many rounds; one that it lets pass is kept as the last good one."""

    def __init__(self, config: RunConfig, exchange: Evaluations, store: RunStore, ledgers: Gathered) -> None:
        assert config.guard is not None
        self._run, self._config, self._exchange = config, config.guard, exchange
        self._store, self._ledgers = store, ledgers
        self.collapse: tuple[str, ...] = ()

    def due(self, number: int, adapter: Vector) -> bool:
        """Whether the adapter of a round is looked at; one that no site would take is, whatever the round."""
        return number % self._config.every == 0 or number == self._run.federation.rounds or self._broken(adapter)

    def _broken(self, adapter: Vector) -> bool:
        """Whether sites refuse an adapter: it holds what is no number, or in a private run what is too large."""
        return not usable(adapter, private=self._run.privacy is not None)

    def resumed(self, at: Checkpoint) -> None:
        """Keep a checkpoint as good that was looked at: the process may have ended between the two."""
        if any(look.round == at.round for look in self._store.looks()):
            self._store.save(at, good=True)

    def look(self, number: int, adapter: Vector, redone: Mapping[int, int]) -> None:
        """Have the sites answer with the adapter of a round, before it becomes the run's.

        Raises
        ------
        FedReasonError
            GUARD_UNDECIDED where the sites do not agree, GUARD_FELL where the answers have fallen; then the run's
            checkpoint is the last good one.
        """
        best = best_of([look.shares for look in self._store.looks()])
        if self._broken(adapter):
            unanswered = FallRow(round=number, shares=dict.fromkeys(best, 0.0), lost=best, counts={}, disagreeing=[])
            self._go_back(unanswered, redone)
        answers, refused = self._answers(Task(self._run, number, 0, adapter, ledgers=self._ledgers.seen(), public=True))
        found = agreed(answers, self._config)
        if found is None:
            raise self._undecided(number, answers, refused)
        for site in found.disagreeing:
            _log.warning("round %d: %s answers the public questions otherwise than most sites", number, site)
        self.collapse = collapsed(found.shares)
        now, before = self._held_out(number)
        shares = found.shares | ({HELD_OUT: median(now.values())} if len(now) >= self._config.evaluators else {})
        share, then = held_out_fall(now, before, self._config.evaluators)
        counts, others = {site: dict(count) for site, count in answers.items()}, list(found.disagreeing)
        if lost := fallen(found.shares | share, best | then, self._config.margin):
            fell = FallRow(round=number, shares=shares | share, lost=lost, counts=counts, disagreeing=others)
            self._go_back(fell, redone)
        self._store.record(LookRow(round=number, shares=shares, counts=counts, disagreeing=others))

    def _go_back(self, fall: FallRow, redone: Mapping[int, int]) -> NoReturn:
        fall.back_to = self._store.good().round
        fall.sites = since = self._since(fall.back_to, fall.round)
        error = self._fell(fall, [site for site, (rounds, _) in since.items() if rounds])
        self._store.go_back(fall, redone)
        raise error

    def _answers(self, task: Task) -> tuple[dict[str, Counts], dict[str, int]]:
        answers: dict[str, Counts] = {}
        refused: dict[str, int] = {}
        for reply in self._exchange.evaluations(task, lambda: len(answers) >= self._config.evaluators):
            if isinstance(reply, Evaluation) and reply.round == task.round and reply.site not in answers:
                self._ledgers.take(reply.site, reply.ledgers)
                counts = (reply.counts or {}).get(PUBLIC, {})
                answers[reply.site] = counts if counts.keys() <= set(KINDS) else {}
            elif not isinstance(reply, Evaluation):
                refused[reply.site] = reply.code if isinstance(reply, Refusal) else int(Code.RUN_REPLY)
                _log.warning("answers no public questions: %s", told(reply.site, refused[reply.site]))
        return answers, refused

    def _held_out(self, number: int) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Return the shares of held-out questions by site after a round, and at the looks before it."""
        looked, counts = (
            [look.round for look in self._store.looks() if look.round < number],
            dict[int, dict[str, Any]](),
        )
        for row in self._store.evaluations():
            counts.setdefault(row.round, {})[row.site] = row.counts
        now, *before = (held_out_shares(counts.get(at, {}), fewest_asked(self._run)) for at in (number, *looked))
        return now, before

    def _since(self, back_to: int, number: int) -> dict[str, list[int]]:
        """Return how many rounds and evaluations after one round, up to another, hold each site's part."""
        rounds = Counter(site for row in self._store.rounds() if back_to < row.round <= number for site in row.sites)
        told = Counter(row.site for row in self._store.evaluations() if back_to < row.round <= number)
        return {site: [rounds[site], told[site]] for site in sorted({*rounds, *told})}

    def _undecided(self, number: int, answers: Mapping[str, Counts], refused: Mapping[str, int]) -> FedReasonError:
        shares = {site: shares_of(counts) for site, counts in sorted(answers.items())}
        said = "; ".join(f"{site} {'nothing that can be' if of is None else _text(of)}" for site, of in shares.items())
        reasons = "".join(f" {line}." for line in all_told(refused))
        return FedReasonError(
            Code.GUARD_UNDECIDED,
            f"Round {number}: no {self._config.evaluators} sites that are more than half of those that answered agree "
            f"what the adapter answers to public questions ({said or 'nobody answered'}).{reasons}",
            "Nothing was taken back or kept of this round. Have more sites started, or one that lies revoked, then "
            "start the run again: the round is done anew.",
        )

    def _fell(self, fall: FallRow, since: Sequence[str]) -> FedReasonError:
        return FedReasonError(
            Code.GUARD_FELL,
            f"Round {fall.round}: the adapter's answers fell by more than {self._config.margin:g}: "
            f"{lost_text(fall.lost, fall.shares)}. The run is back at round {fall.back_to}. In the rounds since took "
            f"part: {', '.join(since) or 'nobody'}.",
            f"Find out which site it was (docs/privacy.md says how). {self._next_steps(fall.back_to)}",
        )

    def _next_steps(self, back_to: int) -> str:
        again = f"`python -m server run CONFIG`, which goes on from round {back_to}"
        if self._run.quorum == self._run.federation.sites:
            return (
                f"Once it is mended there: {again}. The quorum of this run is all its sites; a run of another name "
                "with a smaller federation.quorum can do without one."
            )
        return (
            "To go on without it: `python -m server revoke SITE`, at each other site `python -m client roster accept`, "
            f"then {again}."
        )


def _text(shares: Shares) -> str:
    return ", ".join(f"{kind} {share:.2f}" for kind, share in shares.items())
