"""What the guard saw of a run, look by look: each site's answers to public questions, the median, what was undone.

For `status` and for the page. What cannot be the counts of any answers is shown as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from common.guard import BOXED, OTHER, RIGHT
from common.pages.page import details, html_table, paragraph
from common.pages.plots import COLOURS, CROSS, GREY, VERMILION, Line, lines
from common.toml import Strict
from server.rounds.shares import HELD_OUT, Shares, lost_text, shares_of

if TYPE_CHECKING:
    from server.rounds.store import FallRow, LookRow

KINDS = {RIGHT: "right", BOXED: "boxed", OTHER: "another choice", HELD_OUT: "held-out"}
"""How the shares are called, the one that tells most first."""


class Look(Strict):
    """One look at the adapter: what each site says (None: nothing that can be), and what they agree on.

    Of an adapter that was taken back `back_to` is the round that the run was put back to, `lost` the best shares that
    it had fallen from, `since` who took part in the rounds since, and `undone` in how many rounds and evaluations.
    """

    round: int
    sites: dict[str, Shares | None]
    agreed: Shares
    disagreeing: tuple[str, ...] = ()
    back_to: int | None = None
    lost: Shares = Field(default_factory=dict)
    since: tuple[str, ...] = ()
    undone: dict[str, tuple[int, int]] = Field(default_factory=dict)

    @property
    def remark(self) -> str:
        """Say what became of it; empty where nothing did."""
        told = [] if self.back_to is None else [f"taken back to round {self.back_to}: {self.fell}"]
        return "; ".join([*told, *([f"otherwise: {', '.join(self.disagreeing)}"] if self.disagreeing else [])])

    @property
    def fell(self) -> str:
        """Say what was lost of an adapter that was taken back."""
        return lost_text(self.lost, self.agreed) or "no site computes with it"


def looks_of(looks: Sequence[LookRow], falls: Sequence[FallRow]) -> tuple[Look, ...]:
    """Return all looks by round; of one round those that were taken back first."""
    fell = [_look(row, back_to=row.back_to, lost=row.lost, **_since(row)) for row in falls]
    return tuple(sorted([*fell, *map(_look, looks)], key=lambda look: look.round))


def _since(row: FallRow) -> dict[str, Any]:
    """Return who took part in what was taken back; a version before named sites alone: in each round, then."""
    of = row.sites if isinstance(row.sites, dict) else dict.fromkeys(row.sites, (row.round - row.back_to, 0))
    undone = {site: (rounds, told) for site, (rounds, told) in of.items()}
    return {"since": tuple(site for site, (rounds, _) in undone.items() if rounds), "undone": undone}


def _look(row: LookRow | FallRow, **fell: Any) -> Look:
    return Look(
        round=row.round,
        sites={site: shares_of(counts) for site, counts in sorted(row.counts.items())},
        agreed=row.shares,
        disagreeing=tuple(row.disagreeing),
        **fell,
    )


def sites_of(looks: Sequence[Look]) -> list[str]:
    """Return every site that answered."""
    return sorted({site for look in looks for site in look.sites})


def looks_section(looks: Sequence[Look]) -> str:
    """Right answers to the public questions by round and site, with the median; what was taken back is said below."""
    drawn = _figure(looks)
    rows = [
        (look.round, name, *(None if of is None else of.get(kind) for kind in KINDS), remark)
        for look in looks
        for name, of, remark in [
            *((site, of, "") for site, of in look.sites.items()),
            ("median", look.agreed, look.remark),
        ]
    ]
    table = html_table(["round", "site", *KINDS.values(), "remark"], rows)
    return "\n".join([drawn, *(paragraph(undone_text(look)) for look in looks if look.back_to is not None),
                      details("Numbers by round and site", table)])  # fmt: skip


def undone_text(look: Look) -> str:
    """Say what was taken back, and who took part."""
    return (
        f"Round {look.round} was taken back: {look.fell}. The run was put back to round {look.back_to}; in the rounds "
        f"since took part: {', '.join(look.since) or 'nobody'}."
    )


def _figure(looks: Sequence[Look]) -> str:
    kept, undone = ([look for look in looks if (look.back_to is None) is good] for good in (True, False))
    series = []
    for i, site in enumerate(sites_of(looks)):
        points = [(look.round, of[RIGHT]) for look in kept if (of := look.sites.get(site)) is not None]
        series.append(Line(site, points, COLOURS[i % len(COLOURS)], mark=i))
    median = [(look.round, look.agreed[RIGHT]) for look in kept if RIGHT in look.agreed]
    series.append(Line("median", median, GREY, mark=None, dashed=True, thick=True))
    if undone:
        points = [(look.round, look.agreed.get(RIGHT, 0.0)) for look in undone]
        series.append(Line("taken back", points, VERMILION, mark=CROSS, joined=False))
    title = "Public questions answered rightly, as each site says"
    return lines("public", title, series, x="round", y="share of right answers", top=1.0)
