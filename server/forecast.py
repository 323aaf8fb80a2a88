"""`python -m server ask CONFIG`: who would take part in a run, and what it would cost each site, before it starts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.keys import private_folder
from server import control
from server.federation import Federation
from server.runs import reason, refusal
from server.standing import ASK_FILE, SiteEstimate, Standing, read_standing

_POLL_SECONDS = 0.3
_LOOK_SECONDS = 10.0
_UP_BYTES, _DOWN_BYTES = 8, 4
"""Bytes a parameter: int64 sums up, float32 values down."""


@dataclass(frozen=True)
class Forecast:
    """What one site answered, worked out for a round; None where it refused, or did not answer."""

    site: str
    code: int | None
    seconds_per_round: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    budget: float | None = None

    @property
    def takes_part(self) -> bool:
        """Whether the site would take part."""
        return self.code is None


def groups_per_round(config: RunConfig) -> float:
    """Return how many groups a site of average size samples in a round, from the public constants alone."""
    federation = config.federation
    patients = federation.population / federation.sites * federation.sampling_rate
    return patients * config.questions.per_patient * federation.local_steps


def forecast(estimate: SiteEstimate, config: RunConfig) -> Forecast:
    """Work out what a site's answer means for a round."""
    if estimate.code is not None or estimate.seconds_per_group is None or estimate.size is None:
        return Forecast(estimate.site, estimate.code or int(Code.SITE_SILENT))
    seconds = estimate.seconds_per_group * groups_per_round(config)
    return Forecast(estimate.site, None, seconds, estimate.size * _UP_BYTES, estimate.size * _DOWN_BYTES)


def ask(federation: Federation, path: Path, config: RunConfig) -> list[Forecast]:
    """Have every site of the roster say whether it would take part; nothing of the run is started or changed.

    Raises
    ------
    FedReasonError
        COORDINATOR_DOWN, SERVICE_FAILED; what stopped the question, where it was not put.
    """
    file = federation.runs / config.name / ASK_FILE
    private_folder(file.parent)
    file.unlink(missing_ok=True)
    run_id = control.submit(federation, path, ask=True)
    try:
        standing = _answered(federation, run_id, file, config.federation.deadline)
    except BaseException:
        control.stop_run(federation, run_id)
        raise
    answers = {estimate.site: forecast(estimate, config) for estimate in standing.estimates}
    roster = federation.roster()
    for site in roster.sites if roster else ():
        answers.setdefault(site, Forecast(site, int(Code.SITE_SILENT)))
    return [answers[site] for site in sorted(answers)]


def _answered(federation: Federation, run_id: int, file: Path, deadline: float) -> Standing:
    """Wait for the answers."""
    until = time.monotonic() + deadline + 60
    looked = time.monotonic()
    while True:
        standing = read_standing(file)
        if standing is not None and standing.state == "finished":
            return standing
        if standing is not None and standing.state in ("stopped", "aborted"):
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


def document(forecasts: list[Forecast], config: RunConfig) -> dict[str, object]:
    """Return the answers for a program."""
    takers = [one.site for one in forecasts if one.takes_part]
    return {
        "run": config.name,
        "asked": datetime.now(UTC).isoformat(timespec="seconds"),
        "quorum": config.quorum,
        "would_start": len(takers) >= config.quorum,
        "sites": [{**asdict(one), "takes_part": one.takes_part} for one in forecasts],
    }
