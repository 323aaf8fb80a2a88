"""The federated arm on Flower's simulation engine: the ClientApp and round loop that hospitals run, nodes on Ray."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from client.site.kit import accepted_roster
from common.arrays import Vector
from common.config import RunConfig
from common.errors import FedReasonError
from common.identity.roster import Roster
from common.processes import loading
from server.rounds.loop import Progress, run_rounds
from server.rounds.store import RunStore
from simulation.prepare import simulation_of


def run_federated(config: RunConfig, folder: Path, report: Callable[[Progress], None]) -> Vector:
    """Run or resume the federation and return its adapter."""
    os.environ |= {
        "FEDREASON_SITES": str((folder / "sites").resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
    }
    with RunStore.opened(folder, config) as store:
        done = store.load()
        if done is not None and done.round == config.federation.rounds:
            return done.adapter
        roster = accepted_roster(next(iter(sorted((folder / "sites").glob("*/"))))) if config.secure else None
        return _simulate(config, store, roster, report)


def _simulate(config: RunConfig, store: RunStore, roster: Roster | None, report: Callable[[Progress], None]) -> Vector:
    with loading():
        import flwr.simulation
        from flwr.app import Context
        from flwr.serverapp import Grid, ServerApp

        from client.app import app as client_app
        from server.rounds.grid import GridExchange

    flower = logging.getLogger("flwr")
    flower.setLevel(logging.ERROR)
    flower.propagate = False
    server_app = ServerApp()
    result: list[Vector] = []
    failure: list[FedReasonError] = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            result.append(run_rounds(config, GridExchange(grid, config, roster=roster), store, report))
        except FedReasonError as error:
            failure.append(error)

    processes = 1 if config.secure else simulation_of(config).processes  # a secure sum lives in the memory of one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flwr.simulation.run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=config.federation.sites,
            backend_config={
                "init_args": {"num_cpus": processes, "include_dashboard": False, "log_to_driver": False},
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            },
        )
    if failure:
        raise failure[0]
    return result[0]
