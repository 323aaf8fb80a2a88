"""Flower ServerApp: finds configuration and federation, runs the rounds, leaves everything in the run folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from pydantic import ValidationError

from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError
from common.identity.keys import read_public
from common.identity.kit import COORDINATOR_KEY
from common.identity.roster import Roster, read_roster
from common.logs import log_to_stderr, logger
from common.processes import outlive_parent_by
from server.amounts import size_text
from server.provisioning.federation import Federation
from server.rounds.estimates import ask_sites
from server.rounds.grid import GridExchange
from server.rounds.loop import Progress, run_rounds
from server.rounds.standing import FILE, StandingFile, ask_file
from server.rounds.store import RunStore

_log = logger("server")
_LAST_SECONDS = 5.0
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the configured federation, or with `ask` only put the question before a run."""
    log_to_stderr()
    logging.getLogger("flwr").addFilter(in_one_line)
    config = as_started(context)
    folder = setting(context, "runs") / config.name
    federation = Federation.open(setting(context, "federation")) if named(context, "federation") else None
    if federation is not None:
        outlive_parent_by(_LAST_SECONDS)
    if context.run_config.get("ask"):
        folder.mkdir(parents=True, exist_ok=True)
        with StandingFile(ask_file(folder, context.run_id)) as standing:
            ask_sites(config, GridExchange(grid, config, federation, standing), standing)
        return
    with (
        RunStore.opened(folder, config) as store,
        StandingFile(folder / FILE, config.federation.rounds) as standing,
    ):

        def report(progress: Progress) -> None:
            tell(progress)
            standing.tell(
                seconds=progress.seconds,
                bytes_up=progress.bytes_up,
                bytes_down=progress.bytes_down,
                collapse=progress.collapse,
            )

        roster = prepared_roster(named(context, "sites")) if federation is None and config.secure else None
        exchange = GridExchange(grid, config, federation, standing, roster, resumed=bool(store.rounds()))
        run_rounds(config, exchange, store, report)


def as_started(context: Context) -> RunConfig:
    """Return the run as it was handed over, or else as its file states it.

    Raises
    ------
    FedReasonError
        RUN_OTHER_CONFIG where the file has come to state another run than was handed over, under whichever name, or
        another version handed over what this one does not know.
    """
    if text := context.run_config.get("stated"):
        try:
            return RunConfig.model_validate_json(str(text))
        except ValidationError:
            raise FedReasonError(
                Code.RUN_OTHER_CONFIG,
                "The run was handed over by another version, whose configuration this one cannot read.",
                "Nothing began. Let it end by the version that began it, or start it anew under another name.",
            ) from None
    config, _ = load_config(setting(context, "config"))
    stated = named(context, "sha256")
    if stated and stated != config.sha256:
        raise FedReasonError(
            Code.RUN_OTHER_CONFIG,
            f"{setting(context, 'config')} states another run ('{config.name}', {config.sha256[:12]}) than was started "
            f"from it ({stated[:12]}).",
            "Nothing began. Put back what it stated, give other runs files of their own, and start it again.",
        )
    return config


def prepared_roster(sites: str) -> Roster | None:
    """Return the roster of a simulation's site folders, None where there is none."""
    path = next(iter(sorted(Path(sites).expanduser().glob("*/roster.json"))), None)
    return None if path is None else read_roster(path, read_public(path.with_name(COORDINATOR_KEY)))


def named(context: Context, name: str) -> str:
    """Value from the run's Flower configuration, or from FEDREASON_<NAME> where it is empty there."""
    return str(context.run_config.get(name) or os.environ.get(f"FEDREASON_{name.upper()}", ""))


def setting(context: Context, name: str) -> Path:
    """Path that `named` gives."""
    return Path(named(context, name)).expanduser().resolve()


def tell(progress: Progress) -> None:
    """Log a finished round."""
    reward = "" if progress.reward is None else f", reward {progress.reward:.3f}"
    _log.info(
        "round %d/%d: %d sites, %.1f s, %s up, %s down%s",
        progress.round,
        progress.rounds,
        progress.sites,
        progress.seconds,
        size_text(progress.bytes_up),
        size_text(progress.bytes_down),
        reward,
    )
    if progress.collapse:
        _log.warning("round %d: training has collapsed: %s", progress.round, "; ".join(progress.collapse))


def in_one_line(record: logging.LogRecord) -> bool:
    """Let Flower log a numbered refusal as what it says, without the traceback it adds to every error of an app."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, FedReasonError):
        record.msg, record.args, record.exc_info = str(error), (), None
    return True
