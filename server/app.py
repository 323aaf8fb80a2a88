"""Flower ServerApp: finds the run configuration, runs the rounds, leaves everything in the run folder."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config import load_config
from common.logs import log_to_stderr, logger
from server.grid import GridExchange
from server.rounds import Progress, run_rounds
from server.store import RunStore

_log = logger("server")
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the configured federation."""
    log_to_stderr()
    config, _ = load_config(setting(context, "config"))
    folder = setting(context, "runs") / config.name
    with RunStore.opened(folder, config) as store:
        run_rounds(config, GridExchange(grid, config), store, tell)


def setting(context: Context, name: str) -> Path:
    """Path from the run's Flower configuration, or from FEDREASON_<NAME> where it is started without one."""
    value = context.run_config.get(name) or os.environ.get(f"FEDREASON_{name.upper()}", "")
    return Path(str(value)).expanduser().resolve()


def tell(progress: Progress) -> None:
    """Log a finished round."""
    reward = "" if progress.reward is None else f", reward {progress.reward:.3f}"
    _log.info(
        "round %d/%d: %d sites, %.1f s%s", progress.round, progress.rounds, progress.sites, progress.seconds, reward
    )
