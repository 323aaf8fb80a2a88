"""The privacy budget: what was spent as a curve against its cap, by run, and what a planned run would add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import TypeVar

from client.dashboard.parts import clock, part
from client.policy.policy import Policy, load_policy
from client.privacy.budget import ledger_home
from client.privacy.spending import Planned, Spending, epsilon_at, plan_lines, planned, spending
from client.privacy.validity import require_valid_privacy
from client.site.config import load_site
from common.config import RunConfig, load_config
from common.errors import FedReasonError
from common.messages.heads import Head
from common.pages.page import Section, facts, html_table, paragraph
from common.pages.plots import BLUE, GREY, VERMILION, Line, lines
from common.web.visit import Answer, Document, Visit, go, whole

_MOST_POINTS = 400
_T = TypeVar("_T")


@dataclass(frozen=True)
class Verified:
    """That every line, signature and cost of the ledger held up to a line, and when that was computed; PRV at delta."""

    head: Head
    prv: float
    delta: float | None
    at: datetime


@dataclass
class Budget:
    """The pages of the ledger; `plans` are the configurations that the command line named."""

    folder: Path
    plans: Sequence[Path]
    verified: Verified | None = None

    def found(self, *, delta: float | None = None, verify: bool = False) -> Spending:
        """Read the ledger that this site charges."""
        return spending(ledger_home(self.folder, load_site(self.folder)), delta=delta, verify=verify)

    def page(self, visit: Visit) -> Answer:
        """Return the page of what was spent."""
        return self._document(visit, [], None)

    def verify(self, visit: Visit) -> Answer:
        """Compute every cost anew and check every signature."""
        self.verified = None
        found = self.found(delta=load_policy(self.folder).privacy.delta, verify=True)
        self.verified = Verified(found.head, found.prv or 0.0, found.delta, datetime.now(UTC))
        visit.session.notice = f"Every line, signature and cost was checked, up to line {found.head.sequence:,}."
        return go("/ledger")

    def plan(self, visit: Visit) -> Answer:
        """Return the page with what a run of the command line would add."""
        number = whole(visit.form.get("plan", ""), 0, 0, max(len(self.plans) - 1, 0))
        if not self.plans:
            return go("/ledger")
        added: list[Planned] = []
        sections = [part("What the run would add", partial(self._planned, self.plans[number], added))]
        sections.append(part("Whether it would be accepted", partial(self._accepted, self.plans[number])))
        return self._document(visit, sections, added[0] if added else None)

    def _document(self, visit: Visit, more: Sequence[Section], added: Planned | None) -> Document:
        sections = [
            *more,
            part("Spent", self.spent),
            part("Curve", partial(self._curve, added)),
            part("By run", self.by_run),
            part("Planned runs", partial(self._choices, visit)),
            part("Verification", lambda: self.checked() + visit.button("/ledger/verify", "Check every line")),
        ]
        return Document(
            "Privacy budget", "What the runs together have spent on each patient, and what is left.", sections
        )

    def spent(self) -> str:
        """Return what was spent and what is left, at the policy's delta: the next release is charged so."""
        limits = load_policy(self.folder).privacy
        found, cap = self.found(delta=limits.delta), limits.epsilon
        return facts(
            {
                "epsilon spent": f"{found.epsilon:.4g}",
                "delta": None if found.delta is None else f"{found.delta:g}",
                "cap": f"{cap:g}",
                "left": f"{max(0.0, cap - found.epsilon):.4g}",
                "releases": f"{len(found.entries):,}",
                "head of the ledger": f"{found.head.sequence} {found.head.sha256}",
            }
        )

    def by_run(self) -> str:
        """Return what each run added."""
        rows = [
            (run.run, f"{run.epsilon:.4g}", run.rounds, run.releases, run.retries, run.first[:16], run.last[:16])
            for run in self.found().runs
        ]
        if not rows:
            return paragraph("Nothing was released.")
        return html_table(("run", "epsilon", "rounds", "releases", "retries", "first (UTC)", "last (UTC)"), rows)

    def checked(self) -> str:
        """Return what is known to hold of the ledger as it is now."""
        found = self.found()
        told = f"Up to line {found.head.sequence:,} each line follows the one before, and none is missing."
        if self.verified is None or self.verified.head != found.head:
            return paragraph(
                f"{told} Signatures and costs of these lines were not computed anew since this was started."
            )
        held = f"{told} Every signature and cost held at {clock(self.verified.at)}."
        if self.verified.delta is None:
            return paragraph(held, "good")
        at = f"epsilon is {self.verified.prv:.4g} at delta {self.verified.delta:g}"
        return paragraph(held, "good") + paragraph(f"By PRV, which is tighter and reported only, {at}.")

    def _curve(self, added: Planned | None) -> str:
        entries = self.found().entries
        try:
            limits = load_policy(self.folder).privacy
            unknown = ""
        except FedReasonError as error:
            limits, unknown = None, paragraph(str(error), "warn")
        points = [
            (float(entry.sequence), epsilon_at(entry, limits.delta if limits else entry.release.delta))
            for entry in _thinned(entries)
        ]
        drawn = [Line("spent", [(0.0, 0.0), *points], BLUE)]
        last = float(len(entries))
        if added is not None:
            curve = _thinned([(last + releases, epsilon) for releases, epsilon in added.curve])
            drawn.append(Line("with the planned run", curve, VERMILION, mark=2, dashed=True))
            last = curve[-1][0]
        if limits is not None:
            ends = [(0.0, limits.epsilon), (max(last, 1.0), limits.epsilon)]
            drawn.append(Line("cap", ends, GREY, mark=None, thick=True))
        return lines("spent", "Epsilon by release", drawn, x="releases", y="epsilon") + unknown

    def _choices(self, visit: Visit) -> str:
        if not self.plans:
            return paragraph("None was named: start this with --plan FILE, which may be said several times.")
        options = "".join(f'<option value="{i}">{escape(str(path))}</option>' for i, path in enumerate(self.plans))
        field = f'<label>Configuration of the run <select name="plan">{options}</select></label>'
        form = visit.form_of("/ledger/plan", field, "Say what it would add")
        return f'<div class="stacked">{form}</div>'

    def _planned(self, path: Path, added: list[Planned]) -> str:
        config, policy = _run(path), load_policy(self.folder)
        cap, delta = policy.privacy.epsilon, policy.delta_of(config)
        home = ledger_home(self.folder, load_site(self.folder))
        found = planned(home, config, cap=cap, delta=delta, counts=policy.metrics == "noised")
        if found is not None:
            added.append(found)
        told = plan_lines(found, config, cap=cap, delta=delta)
        return "".join(paragraph(": ".join(line.split(maxsplit=1))) for line in told)

    def _accepted(self, path: Path) -> str:
        config, codebook = load_config(path)
        policy: Policy = load_policy(self.folder)
        policy.refuse(config)
        require_valid_privacy(config, codebook)
        return paragraph("The policy allows it, and it is private by the rules, where it is private at all.")


def _run(path: Path) -> RunConfig:
    return load_config(path)[0]


def _thinned(points: Sequence[_T]) -> list[_T]:
    """Return so many of the points that a plot shows, the last always."""
    step = max(1, -(-len(points) // _MOST_POINTS))
    return [*points[:-1:step], *points[-1:]]
