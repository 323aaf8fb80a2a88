"""`python -m server ask CONFIG`: who would take part in a run, and what it would cost each site, before it starts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder
from common.mechanisms import mechanism_document
from server.provisioning.federation import Federation
from server.rounds.interruption import Interruption
from server.rounds.pace import Pace, comparable, groups_per_round, pace
from server.rounds.refusals import kind_of
from server.rounds.runs import reason, refusal
from server.rounds.standing import SiteEstimate, Standing, ask_file, read_standing
from server.services import control
from server.services.supervision import serverapps

_POLL_SECONDS = 0.3
_LOOK_SECONDS = 10.0
_END_SECONDS = 30.0
_LATE = 60.0
"""Seconds behind a deadline after which nobody waits for an answer."""
_UP_BYTES, _SECURE_UP_BYTES, _DOWN_BYTES = 8, 4, 4
"""Bytes a parameter: int64 sums up, 32 bits where they are masked, float32 values down."""


@dataclass(frozen=True)
class Forecast:
    """What one site answered, worked out for a round; None where it refused, or did not answer.

    `seconds_per_round` is the site's own work for as many patients as it has on average; `size` the values of the
    adapter.
    """

    site: str
    code: int | None
    seconds_per_round: float | None = None
    size: int | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    budget: float | None = None

    @property
    def takes_part(self) -> bool:
        """Whether the site would take part."""
        return self.code is None


def forecast(estimate: SiteEstimate, config: RunConfig) -> Forecast:
    """Work out what a site's answer means for a round."""
    if estimate.code is not None or estimate.seconds_per_group is None or estimate.size is None:
        return Forecast(estimate.site, estimate.code or int(Code.SITE_SILENT))
    seconds = estimate.seconds_per_group * groups_per_round(config)
    up = _SECURE_UP_BYTES if config.secure else _UP_BYTES
    return Forecast(estimate.site, None, seconds, estimate.size, estimate.size * up, estimate.size * _DOWN_BYTES)


@dataclass(frozen=True)
class Forecasts:
    """What all sites answered, and how long a round will take; None where none would take part."""

    sites: tuple[Forecast, ...]
    pace: Pace | None

    @property
    def size(self) -> int | None:
        """Values of the adapter, the most that a site says who would take part; None where none would."""
        return max((one.size for one in self.sites if one.size is not None), default=None)


def ask(
    federation: Federation, path: Path, config: RunConfig, show: Callable[[Standing | None], None] = lambda _: None
) -> Forecasts:
    """Have every site of the roster say whether it would take part; nothing of the run is started or changed.

    Whoever else asks about the run meanwhile, with whatever configuration, is answered in another file. Interrupted by
    Ctrl-C or SIGTERM, it takes the question back before it ends.

    Parameters
    ----------
    federation
        The federation, its services up.
    path
        The run's configuration, and `config` what it says.
    show
        Is told how the question stands, again and again; None before it has been taken up.

    Raises
    ------
    FedReasonError
        COORDINATOR_DOWN, SERVICE_FAILED; what stopped the question, where it was not put.
    """
    folder = federation.runs / config.name
    show(None)
    with Interruption() as interruption:
        run_id: int | None = None
        before = serverapps(federation)
        private_folder(folder)
        _forget_older(folder, config.federation.deadline + _LATE)
        try:
            with interruption.held():
                run_id = control.submit(federation, path, config.sha256, config.model_dump_json(), ask=True)
            standing = _answered(federation, run_id, ask_file(folder, run_id), config.federation.deadline, show)
        except BaseException:
            with interruption.held():
                if run_id is not None:
                    _take_back(federation, run_id, before)
            raise
        finally:
            if run_id is not None:
                ask_file(folder, run_id).unlink(missing_ok=True)
    answers = {estimate.site: forecast(estimate, config) for estimate in standing.estimates}
    roster = federation.roster()
    for site in roster.sites if roster else ():
        answers.setdefault(site, Forecast(site, int(Code.RUN_ABSENT)))
    said = [one.seconds_per_group for one in standing.estimates if one.seconds_per_group is not None]
    taken = pace(config, said, comparable(federation.runs, config)) if said else None
    return Forecasts(tuple(answers[site] for site in sorted(answers)), taken)


def _forget_older(folder: Path, seconds: float) -> None:
    """Remove answers that nobody waits for any more: of questions that were killed."""
    for path in folder.glob("ask*.json"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def _take_back(federation: Federation, run_id: int, before: set[int]) -> None:
    """Stop the question, and wait until the process that was started for it has ended."""
    control.stop_run(federation, run_id)
    until = time.monotonic() + _END_SECONDS
    while serverapps(federation) - before and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


def _answered(
    federation: Federation, run_id: int, file: Path, deadline: float, show: Callable[[Standing | None], None]
) -> Standing:
    """Wait for the answers."""
    until = time.monotonic() + deadline + 60
    looked = time.monotonic()
    while True:
        standing = read_standing(file)
        show(standing)
        if standing is not None and standing.state == "finished":
            return standing
        if standing is not None and not standing.alive:
            raise refusal(standing.code, standing.found, standing.fix)
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            found = control.run_status(federation, run_id)
            if read_standing(file) is None and (found is None or found.finished):
                raise refusal(*reason(found.details if found else ""))
        if time.monotonic() > until:
            raise FedReasonError(
                Code.RUN_FAILED, "The sites' answers did not come together in time.", "See superlink/superexec.log."
            )
        time.sleep(_POLL_SECONDS)


def document(forecasts: Forecasts, config: RunConfig) -> dict[str, object]:
    """Return the answers for a program."""
    takers = [one.site for one in forecasts.sites if one.takes_part]
    return {
        "run": config.name,
        "asked": datetime.now(UTC).isoformat(timespec="seconds"),
        "quorum": config.quorum,
        "would_start": len(takers) >= config.quorum,
        "round": asdict(forecasts.pace) if forecasts.pace else None,
        "privacy": mechanism_document(config, delta_of(config), forecasts.size),
        "sites": [{**_of_site(one), "takes_part": one.takes_part} for one in forecasts.sites],
    }


def delta_of(config: RunConfig) -> float:
    """Return the delta at which the coordinator states epsilon: the run's; a site does so at its policy's."""
    return 1.0 if config.privacy is None else config.privacy.delta


def _of_site(one: Forecast) -> dict[str, object]:
    return {**asdict(one), "answer": "takes part" if one.code is None else kind_of(one.code)}
