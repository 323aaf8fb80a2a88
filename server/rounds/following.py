"""Watching a run from the outside: its standing in words, on one line that moves, until it ends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.errors import Code, FedReasonError
from server.amounts import duration_text, size_text
from server.provisioning.federation import Federation
from server.rounds.refusals import in_short
from server.rounds.refusals import told as _told
from server.rounds.runs import Reviver, refusal
from server.rounds.standing import FILE, Standing, read_standing
from server.services.flower import superlink_answers
from server.services.heard import heard

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 2.0
_SAY_SECONDS = 5.0
_DOWN_SECONDS = 60.0
_PATIENCE_SECONDS = 30.0
_DOES = {"layout": "comparing models", "train": "training", "evaluate": "evaluating", "ask": "asking", None: "starting"}


def describe(standing: Standing) -> str:
    """Say how a run stands, on one line."""
    stages = standing.stages
    sites = ", ".join(f"{site} ({stages[site]})" if site in stages else site for site in standing.waiting_for)
    if standing.state == "running":
        text = _DOES[standing.exchange]
    elif standing.state == "waiting":
        text = "not everyone is online" if sites else "starting"
    else:
        text = standing.state if standing.code is None else f"{standing.state} (E{standing.code})"
    if sites and standing.alive:
        text += f", waiting for {sites}"
    return f"{text}; {in_short(standing.refused)}" if standing.refused else text


def last_round(standing: Standing) -> str:
    """Say what the last finished round took; empty before there is one."""
    if standing.seconds is None:
        return ""
    up, down = size_text(standing.bytes_up), size_text(standing.bytes_down)
    return f"{duration_text(standing.seconds)}, {up} up, {down} down"


def rests(standing: Standing) -> bool:
    """Whether nothing goes on with a run unasked: it ended or stopped, and not by services that bring it back later."""
    return standing.ended or (standing.state == "stopped" and standing.code != Code.COORDINATOR_DOWN)


def follow(federation: Federation, folder: Path, console: Console) -> Standing:
    """Show a run until it ends; a ServerApp that vanished is started again. Return its last standing.

    Raises
    ------
    FedReasonError
        With the number that the run was stopped with, or COORDINATOR_DOWN where the services stay away.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[doing]}"), console=console) as progress:
        bar = progress.add_task(folder.name, total=None, doing="starting")
        told: object = None
        seen, said = -1, time.monotonic()

        def tell(line: str) -> None:
            nonlocal said
            said = time.monotonic()
            progress.console.print(line, highlight=False, soft_wrap=True)

        watch = _Watch(federation, Reviver(federation, tell, only=folder))
        while True:
            standing = read_standing(folder / FILE)
            if standing is not None:
                done = standing.rounds if standing.state == "finished" else max(0, standing.round - 1)
                progress.update(bar, total=standing.rounds or None, completed=done, doing=describe(standing))
                if seen >= 0 and done > seen and last_round(standing):
                    tell(f"round {done}/{standing.rounds}: {last_round(standing)}")
                    if standing.collapse:
                        tell(f"training has collapsed: {'; '.join(standing.collapse)}")
                seen = done
                now = (standing.state, standing.refused, standing.state == "running" or standing.waiting_for)
                changed = now != told or (standing.stages and time.monotonic() - said > _SAY_SECONDS)
                if changed and not rests(standing) and not progress.console.is_terminal:
                    tell(f"{folder.name}: {describe(standing)}")
                told = now
                if (line := watch.waits(folder.name, standing)) and not progress.console.is_terminal:
                    tell(line)
                if rests(standing):
                    break
            watch.look()
            time.sleep(_POLL_SECONDS)
    return _result(standing)


@contextlib.contextmanager
def answering(name: str, sites: int, console: Console) -> Iterator[Callable[[Standing | None], None]]:
    """Show the question before a run: who has answered and whom it waits for."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("sites"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("{task.fields[doing]}"), console=console) as progress:
        bar = progress.add_task(f"asking about {name}", total=sites, doing="handing the question to Flower")
        told: set[str] = set()
        said = time.monotonic()

        def tell(line: str) -> None:
            nonlocal said
            said = time.monotonic()
            progress.console.print(line, highlight=False, soft_wrap=True, markup=False)

        def show(standing: Standing | None) -> None:
            doing = "starting" if standing is None else describe(standing)
            estimates = () if standing is None else standing.estimates
            progress.update(bar, completed=len(estimates), doing=doing)
            for one in estimates:
                if one.site not in told:
                    told.add(one.site)
                    tell(f"{one.site} would take part" if one.code is None else _told(one.site, one.code))
            if not progress.console.is_terminal and time.monotonic() - said > _SAY_SECONDS:
                tell(f"{len(estimates)} of {sites} sites have answered; {doing}")

        yield show


class _Watch:
    """What is looked at now and then beside the standing."""

    def __init__(self, federation: Federation, reviver: Reviver) -> None:
        self._federation, self._reviver = federation, reviver
        self._patience = _PATIENCE_SECONDS
        self._looked = self._answered = time.monotonic()

    def waits(self, name: str, standing: Standing) -> str:
        """Say whom the run waits for and how long ago each gave a sign of life, each time it waited twice as long."""
        waited = (datetime.now(UTC) - standing.since).total_seconds()
        if waited < _PATIENCE_SECONDS or not standing.waiting_for or standing.state == "waiting":
            self._patience = _PATIENCE_SECONDS
            return ""
        if waited < self._patience:
            return ""
        while self._patience <= waited:
            self._patience *= 2
        known = heard(self._federation) or {}
        sites = (
            f"{site} ({'online' if site in known and known[site].online else 'offline'}, "
            f"last contact {ago(known[site].contact) or 'never' if site in known else 'unknown'})"
            for site in standing.waiting_for
        )
        return f"{name}: for {duration_text(waited)} round {standing.round} waits for {', '.join(sites)}"

    def look(self) -> None:
        """Bring back a ServerApp that vanished; give up where the services stay away."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if superlink_answers(self._federation):
            self._answered = now
            try:
                self._reviver.look()
            except FedReasonError as error:
                if error.code != Code.COORDINATOR_DOWN:
                    raise
        elif now - self._answered > _DOWN_SECONDS:
            raise FedReasonError(
                Code.COORDINATOR_DOWN,
                f"The SuperLink of {self._federation.name} has not answered for {_DOWN_SECONDS:.0f} s.",
                "Start the coordinator (python -m server up): the run goes on from its last round.",
            )


def _result(standing: Standing) -> Standing:
    """Raise what a run was stopped by."""
    if standing.state == "finished":
        return standing
    raise refusal(standing.code, standing.found, standing.fix)


def ago(moment: datetime | None) -> str:
    """Say how long ago something was."""
    if moment is None:
        return ""
    return f"{duration_text(max(0.0, (datetime.now(UTC) - moment).total_seconds()))} ago"
