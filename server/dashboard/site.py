"""The pages and their addresses: the federation, each run, what was done from here, and what can be done."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from starlette.responses import Response

from common.config import load_config
from common.errors import Code, FedReasonError
from common.pages.page import Link, Section, facts, html_table, paragraph
from common.web.accounts import Accounts
from common.web.app import Pages
from common.web.visit import Answer, Document, Place, Visit, go, whole
from server.amounts import duration_text, size_text
from server.dashboard.jobs import Job, Jobs
from server.dashboard.metrics import TYPE, metrics
from server.dashboard.stages import beside, by_site, last_of, round_facts
from server.dashboard.watch import Watch
from server.dashboard.words import (
    answers,
    attention,
    clock,
    counted,
    run_link,
    runs_table,
    services,
    sites_table,
    standing_facts,
)
from server.provisioning.federation import Federation
from server.rounds.refusals import advice, meaning
from server.rounds.runs import find_run
from server.rounds.standing import FILE, read_standing

MENU = (("Federation", "/"), ("Refusals", "/errors"))


class Site:
    """What answers at each address.

    Parameters
    ----------
    federation
        The federation, opened.
    configs
        Folder whose run configurations (`*.toml`) can be started and asked about.
    tell
        Takes one line for each action: who asked for what, and how it ended.
    """

    def __init__(self, federation: Federation, configs: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self._federation, self._configs = federation, configs
        self.watch, self.jobs = Watch(federation), Jobs(federation.folder, tell)

    def pages(self, accounts: Accounts | None, token: str) -> Pages:
        """Return the application; `token` is what a program bears that asks for /metrics."""
        places = [
            Place("/", self._overview),
            Place("/runs/{run}", self._run),
            Place("/runs/{run}/round", self._round),
            Place("/runs/{run}/abort", self._before_abort),
            Place("/stop", self._before_stop),
            Place("/actions/{number}", self._action),
            Place("/metrics", self._metrics, token=token),
            Place("/start", self._start, action=True),
            Place("/ask", self._ask, action=True),
            Place("/take-back", self._take_back, action=True),
            Place("/abort", self._abort, action=True),
            Place("/stop-services", self._stop, action=True),
        ]
        return Pages(
            f"FedReason {self._federation.name}",
            places,
            menu=MENU,
            accounts=accounts,
        )

    # --- Looking ---

    def _overview(self, visit: Visit) -> Answer:
        status = self.watch.status()
        sections = [
            Section("Attention", attention(status)),
            Section("Runs", runs_table(status)),
            Section("Sites", sites_table(status)),
            Section("Start and ask", self._forms(visit)),
            Section("Done from here", self._done()),
            Section("Services, certificates and roster", services(self._federation, status) + _stop_link()),
        ]
        lead = f"Reached at {status.address}; {counted(len(status.sites), 'site')}, {counted(len(status.runs), 'run')}."
        return Document(f"Federation {status.federation}", lead, sections, live=True)

    def _run(self, visit: Visit) -> Answer:
        run = self.watch.run(visit.parts["run"])
        status, standing = self.watch.status(), read_standing(run.folder / FILE)
        own = next((one for one in status.runs if one.name == run.folder.name), None)
        if standing is None:
            now = paragraph("The run has told nothing yet.")
            told = sites_table(status, run.folder.name)
        else:
            now = standing_facts(standing, run.config, own)
            told = answers(standing, status, run.folder.name)
            if not standing.ended:
                link = run_link(run.folder.name).to
                now += f'<p><a href="{escape(link)}/abort">Abort this run ...</a></p>'
        sections = [Section("How it stands", now), Section("Sites", told), *run.sections()]
        return Document(
            f"Run {run.folder.name}",
            f"python -m server report {run.folder.name}: a file of the same.",
            sections,
            live=True,
        )

    def _round(self, visit: Visit) -> Answer:
        run = self.watch.run(visit.parts["run"])
        history = run.read()
        number = whole(visit.query.get("number", ""), last_of(history), 0, last_of(history))
        told = dict(history.stages(1, number)).get(number, {})
        sections = [
            Section("Seconds and bytes by stage", by_site(told, f"Round {number}")),
            Section("The round", round_facts(history, number)),
            Section("Other rounds", beside(history, number)),
        ]
        return Document(f"Round {number} of {history.run}", "", sections)

    def _metrics(self, _: Visit) -> Answer:
        return Response(metrics(self.watch), headers={"content-type": TYPE})

    # --- Doing ---

    def _files(self) -> list[str]:
        return sorted(path.name for path in self._configs.glob("*.toml") if path.is_file())

    def _forms(self, visit: Visit) -> str:
        files = self._files()
        if not files:
            return paragraph(f"There is no run configuration in {self._place}: put one there (NAME.toml).")
        options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in files)
        asked = f'<label>Ask the sites about <select name="file">{options}</select></label>'
        started = f'<label>Start or go on with <select name="file">{options}</select></label>'
        told = paragraph(f"The run configurations in {self._place}.", "note")
        return told + visit.form_of("/ask", asked, "Ask") + visit.form_of("/start", started, "Start")

    @property
    def _place(self) -> str:
        own = self._federation.folder / "configs"
        return "configs, in the federation's folder" if self._configs == own else str(self._configs)

    def _chosen(self, visit: Visit) -> tuple[Path, str]:
        """Return the configuration that a form names, one of those that are there, and the name of its run."""
        name = visit.form.get("file", "")
        if name not in self._files():
            raise FedReasonError(
                Code.CONFIG_MISSING, f"{self._configs} holds no such configuration.", "Choose one of the list."
            )
        config, _ = load_config(self._configs / name)
        self._federation.require_own(config)
        return self._configs / name, config.name

    def _start(self, visit: Visit) -> Answer:
        path, run = self._chosen(visit)
        return self._begun(visit, "run", run, ["run", str(path.resolve()), "--detach"])

    def _ask(self, visit: Visit) -> Answer:
        path, run = self._chosen(visit)
        return self._begun(visit, "ask", run, ["ask", str(path.resolve()), "--json"])

    def _abort(self, visit: Visit) -> Answer:
        folder = find_run(self._federation, visit.form.get("run", ""))
        return self._begun(visit, "abort", folder.name, ["abort", "--", folder.name])

    def _stop(self, visit: Visit) -> Answer:
        return self._begun(visit, "stop", "the services", ["stop"])

    def _begun(self, visit: Visit, kind: str, about: str, words: list[str]) -> Answer:
        job = self.jobs.begin(kind, about, visit.session.user, words)
        return go(f"/actions/{job.number}")

    def _take_back(self, visit: Visit) -> Answer:
        return go(f"/actions/{self.jobs.take_back(visit.form.get('number', '')).number}")

    def _before_abort(self, visit: Visit) -> Answer:
        folder = find_run(self._federation, visit.parts["run"])
        told = paragraph(
            f"{folder.name} is stopped everywhere: a site that computes stops within seconds. What was done is kept, "
            "and the run can be started again, from its last round."
        )
        button = visit.button("/abort", f"Abort {folder.name}", {"run": folder.name}, kind="grave")
        back = f'<p><a href="{escape(run_link(folder.name).to)}">Leave it running</a></p>'
        return Document(f"Abort {folder.name}?", "", [Section("What happens", told + button + back)])

    def _before_stop(self, visit: Visit) -> Answer:
        told = paragraph(
            "The SuperLink and the superexec are stopped: no site is heard, and no run goes on, until somebody on this "
            "machine says `python -m server up` or starts its unit. Runs then go on from their last round. In "
            "containers this does not hold: compose starts what ends, and `docker compose stop coordinator` stops it."
        )
        button = visit.button("/stop-services", "Stop the services", kind="grave")
        back = '<p><a href="/">Leave them running</a></p>'
        return Document("Stop the services?", "", [Section("What happens", told + button + back)])

    # --- What was done ---

    def _done(self) -> str:
        jobs = self.jobs.all
        if not jobs:
            return paragraph("Nothing yet.")
        rows = [(Link(job.title, f"/actions/{job.number}"), job.user, clock(job.began), job.outcome) for job in jobs]
        return html_table(["action", "by", "began", "outcome"], rows)

    def _action(self, visit: Visit) -> Answer:
        job = self.jobs.find(visit.parts["number"])
        ended = clock(job.ended) or None
        told = facts({"By": job.user, "Began": clock(job.began), "Ended": ended, "Outcome": job.outcome})
        if job.kind == "ask" and job.ended is None:
            told += visit.button("/take-back", "Take the question back", {"number": str(job.number)})
        lines = "\n".join(job.lines if job.kind == "ask" else [*job.lines, *job.answer.splitlines()])
        said = f"<pre>{escape(lines)}</pre>" if lines else paragraph("Nothing yet.")
        sections = [
            Section("Outcome", told),
            Section("What it said", said),
            Section("Answers", _answers(job)),
        ]
        return Document(f"{job.title[:1].upper()}{job.title[1:]}", "", sections, live=True)


def _stop_link() -> str:
    return '<p><a href="/stop">Stop the services ...</a></p>'


def _answers(job: Job) -> str:
    """Return what the sites answered to a question; empty for everything else."""
    if job.kind != "ask" or job.ended is None:
        return ""
    try:
        document: dict[str, Any] = json.loads(job.answer)
        rows = [_answer(one) for one in document["sites"]]
        takers = sum(bool(one["takes_part"]) for one in document["sites"])
        told = f"{takers} of {len(rows)} sites would take part; the quorum is {document['quorum']}."
    except (ValueError, LookupError, TypeError):
        return ""
    refused = [one for one in document["sites"] if one["code"] is not None]
    lines = "".join(paragraph(f"{one['site']}: {advice(one['site'], one['code'])}") for one in refused)
    return (
        paragraph(told) + html_table(["site", "answer", "own work a round", "up a round", "down a round"], rows) + lines
    )


def _answer(one: dict[str, Any]) -> tuple[object, ...]:
    if not one["takes_part"]:
        return one["site"], f"{one['answer']}: {meaning(one['code'] or 0)}", "", "", ""
    seconds = one["seconds_per_round"]
    work = "" if seconds is None else f"about {duration_text(seconds)}"
    return one["site"], "would take part", work, *(size_text(one[key] or 0) for key in ("bytes_up", "bytes_down"))
