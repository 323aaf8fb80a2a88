"""What a Prometheus server reads: the text format, version 0.0.4, of its documentation."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import get_args

from server.dashboard.watch import Watch
from server.dashboard.words import ends_of
from server.rounds.standing import State

TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[dict[str, str], float]


def metrics(watch: Watch) -> str:
    """Return everything that is measured of a federation and its runs."""
    status = watch.status()
    families: dict[str, tuple[str, list[Sample]]] = {}

    def add(name: str, told: str, value: float | None, **labels: str) -> None:
        if value is not None:
            families.setdefault(f"fedreason_{name}", (told, []))[1].append((labels, value))

    for service, answers in status.services.items():
        add("service_up", "Whether a service answers.", answers, service=service)
    for what, moment in ends_of(watch.federation).items():
        add("certificate_expiry_timestamp_seconds", "When a certificate ends.", moment.timestamp(), certificate=what)
    add("roster_version", "Version of the roster.", status.roster_version)
    for site in status.sites:
        add("site_online", "Whether a site is online.", site.presence == "online", site=site.site)
        add(
            "site_last_contact_timestamp_seconds",
            "Last sign of life of a site.",
            _seconds(site.contact),
            site=site.site,
        )
    for run in status.runs:
        standing, name = run.standing, run.name
        if standing is None:
            continue
        for state in get_args(State):
            add("run_state", "1 for the state that a run is in.", standing.state == state, run=name, state=state)
        add("run_rounds", "Rounds that a run shall have.", standing.rounds, run=name)
        add("run_round", "Round that a run is in.", standing.round, run=name)
        add("run_since_timestamp_seconds", "When this state began.", _seconds(standing.since), run=name)
        add("run_waiting_for_sites", "Sites that a run waits for.", len(standing.waiting_for), run=name)
        add("run_answered_sites", "Sites that have answered.", len(standing.answered), run=name)
        add(
            "run_collapsed", "Whether training has collapsed.", bool(standing.collapse) and not standing.ended, run=name
        )
        for left, code in standing.refused.items():
            add("run_site_refused", "A site that is left out now.", 1, run=name, site=left, code=f"E{code}")
        told = watch.at(watch.federation.runs / name).totals(ended=standing.ended)
        add("run_finished_rounds", "Rounds that a run has finished.", told.rounds, run=name)
        add("run_seconds", "Time of all finished rounds.", told.seconds, run=name)
        for way, total in (("up", told.bytes_up), ("down", told.bytes_down)):
            add("run_bytes", "Bytes of all finished rounds.", total, run=name, direction=way)
        add("run_last_round_seconds", "Time of the last round.", told.last_seconds, run=name)
        add("run_reward", "Mean reward of the last round.", told.reward, run=name)
        for of, spent in told.epsilon.items():
            add("run_epsilon", "Privacy spent, as told by rounds.", spent, run=name, site=of)
    return "".join(_family(name, told, samples) for name, (told, samples) in families.items())


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _family(name: str, told: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
    for labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        lines.append(f"{name}{{{inner}}} {float(value)!r}" if inner else f"{name} {float(value)!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
