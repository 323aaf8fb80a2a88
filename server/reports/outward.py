"""What of a run may be told to anybody, for the model card and the reporting checklist: public terms and sums alone.

Counts are those that the sites let out. Published they go further than to the coordinator, so that no row stands on
fewer than `FEWEST` questions; of a codebook that is not here, or was read off records, no feature is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from common import wilson
from common.codebook import Codebook
from common.config import RunConfig
from common.mechanisms import mechanism_lines
from common.sums import KINDS
from server.amounts import duration_text, size_text
from server.reports.forecast import delta_of
from server.reports.rows import RunRows
from server.reports.studied import Grouped, Studied, published
from server.rounds.store import EvaluationRow

FEWEST = 10
"""Questions that a published share stands on at the least."""
AUTHORS = "*to be written by the authors*"
TOGETHER = "all sites"
_HUB = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Share:
    """Right answers of some questions: boxed by the model itself, and with the choice forced where it boxes none."""

    name: str
    asked: int
    free: int
    forced: int

    def __add__(self, other: Share) -> Share:
        return Share(self.name, self.asked + other.asked, self.free + other.free, self.forced + other.forced)

    def share(self, right: int) -> float:
        """Return the share of right answers; noise may have brought it out of 0 to 1."""
        return min(1.0, max(0.0, right / self.asked))


@dataclass(frozen=True)
class Outward:
    """A run after `round` rounds, as the world may see it.

    `codebook` is None where no more may be told than its hash, `study` where the run is none of a finished study.
    """

    config: RunConfig
    rows: RunRows
    round: int
    sha256: str
    codebook: Codebook | None
    study: Studied | None = None

    @property
    def base(self) -> str:
        """How the base model is called: its hub id, or its folder's name without the way to it."""
        return self.config.model.base if self.on_hub else Path(self.config.model.base).name

    @property
    def on_hub(self) -> bool:
        """Whether the base model is named by a hub id."""
        return _HUB.fullmatch(self.config.model.base) is not None and not self.config.model.base.startswith(".")

    @property
    def registry(self) -> str:
        """Return the public name of what the questions are made of."""
        return self.codebook.title if self.codebook else "a registry whose codebook is known by its hash alone"

    @property
    def noised(self) -> bool:
        """Whether the counts hold noise."""
        return self.config.privacy is not None

    @property
    def evaluated(self) -> int | None:
        """Return the last round after which a site told its counts; None where no site did."""
        return max((row.round for row in self.rows.evaluations if row.counts), default=None)

    def _counted(self, number: int | None) -> dict[str, EvaluationRow]:
        return {row.site: row for row in self.rows.evaluations if row.round == number and row.counts}

    @cached_property
    def partly(self) -> str:
        """How many of the sites told their counts after the last evaluated round; empty where all did."""
        told = self._counted(self.evaluated).keys()
        known = {site for row in self.rows.rounds for site in row.sites} | {row.site for row in self.rows.evaluations}
        return "" if told == known else f"{len(told)} of {len(known)} sites"

    @property
    def among(self) -> str:
        """How the sites together are called that told their counts after the last evaluated round."""
        return self.partly or TOGETHER

    def by_site(self, number: int | None) -> list[Share]:
        """Return the shares after a round of the sites that told theirs after the last evaluated one.

        All of them together come last, where all told theirs: else two rounds would differ by whom they are of.
        """
        last, counted = self._counted(self.evaluated), self._counted(number)
        found = [_sum(site, row.counts.values()) for site, row in counted.items() if site in last]
        total = sum(found, Share(self.among, 0, 0, 0))
        whole = last.keys() <= counted.keys() and total.asked >= FEWEST
        return [*together(found, "other sites"), *([total] if whole else [])]

    @property
    def whole(self) -> Share | None:
        """Return the shares of these sites together after the last evaluated round; None where they are not told."""
        return next((one for one in self.by_site(self.evaluated) if one.name == self.among), None)

    @cached_property
    def by_feature(self) -> list[Share]:
        """Return the shares after the last evaluated round by what was asked for, over the sites together."""
        if self.codebook is None or self.noised:
            return []
        counts: dict[str, list[Mapping[str, int]]] = {}
        for row in self.rows.evaluations:
            if row.round == self.evaluated:
                for item, of in row.counts.items():
                    counts.setdefault(item, []).append(of)
        labels = {name: feature.label for name, feature in self.codebook.by_name.items()}
        labels |= {task.name: task.name for task in self.codebook.tasks}
        found = [_sum(labels[item], of) for item, of in sorted(counts.items()) if item in labels]
        return together(found, "others, together")

    @cached_property
    def promises(self) -> list[str]:
        """Return what the run promised of its sums, a sentence each."""
        return [told for _, told in mechanism_lines(self.config, delta_of(self.config))]

    @property
    def groups(self) -> list[Grouped]:
        """Return the groups of patients that the run's study tells of."""
        return published(self.study, self.codebook) if self.study else []

    @property
    def seconds(self) -> str:
        """Return how long all rounds took."""
        return duration_text(sum(row.seconds for row in self.rows.rounds))

    @property
    def site_time(self) -> str:
        """Return how long all sites together computed at the most."""
        return duration_text(sum(row.seconds for row in self.rows.rounds) * self.config.federation.sites)

    @property
    def traffic(self) -> str:
        """Return what was sent in all rounds."""
        up, down = (sum(getattr(row, way) for row in self.rows.rounds) for way in ("bytes_up", "bytes_down"))
        return f"{size_text(up)} from the sites, {size_text(down)} to them"


def together(shares: Sequence[Share], name: str) -> list[Share]:
    """Return shares on `FEWEST` questions each: those on fewer are added up, if need be with the next least."""
    rest, joined = sorted(shares, key=lambda one: one.asked), Share(name, 0, 0, 0)
    while rest and (rest[0].asked < FEWEST or 0 < joined.asked < FEWEST):
        joined += rest.pop(0)
    kept = [one for one in shares if one in rest]
    return [*kept, *([joined] if joined.asked >= FEWEST else [])]


def _sum(name: str, counts: Iterable[Mapping[str, int]]) -> Share:
    of = list(counts)
    return Share(name, *(sum(int(each.get(key, 0)) for each in of) for key in KINDS))


def interval(one: Share, right: int) -> str:
    """Return a share of right answers with its interval."""
    share = one.share(right)
    return f"{share:.3f} ({wilson.shown(share, one.asked)})"


def cell(text: str) -> str:
    """Return text as a cell of a Markdown table, in which nothing is markup."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
