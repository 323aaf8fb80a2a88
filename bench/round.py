"""What a round costs beyond the slowest site's own work, beside stock Flower: `python -m bench.round --sites 3`.

Both run the same federation over TLS, node authentication and nginx, with the same small model and registries. Ours are
sites as hospitals run them; stock are `flower-supernode`s with Flower's own executor, which starts a process for every
message, from the bundle, and loads the model in it. Prints JSON: medians over rounds.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from bench.deployment import ROOT, Deployment, started
from bench.result import print_result
from bench.waiting import PATIENCE, until
from common import synthetic
from common.config import RunConfig
from server.rounds.store import RunStore
from simulation.prepare import prepare
from tests.small import make_small_model, small_config

_WORK = re.compile(r"round (\d+), contribute in ([\d.]+) s")
_POLICY = {"metrics": "plain", "base_models": ["*"]}


def main(sites: Annotated[int, typer.Option(help="Sites.")] = 3, rounds: int = 10, stock_rounds: int = 4) -> None:
    """Measure rounds of real deployments."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hospitals = synthetic.HOSPITALS if sites == 5 else dict(list(synthetic.HOSPITALS.items())[:sites])
        model = make_small_model(folder / "model")
        ours, stock = (trivial(model, run, list(hospitals), count)
                       for run, count in (("ours", rounds), ("stock", stock_rounds)))  # fmt: skip
        registries = {
            site: path / "registry.csv" for site, path in prepare(ours, synthetic.codebook(), folder / "p").items()
        }
        with started(Deployment(folder / "d", registries, _POLICY)) as deployment:
            deployment.must("server", "run", written(ours, folder))
            work = slowest_work(deployment)
            mine = figures(deployment, ours, work, "model loaded")
            for site in deployment.sites:
                deployment.end(site)
                (deployment.folder / f"{site}.log").unlink()
            for site in deployment.sites:
                start_stock(deployment, site)
            for site in deployment.sites:
                await_stock(deployment, site)
            run_stock(deployment, written(stock, folder))
            theirs = figures(deployment, stock, work, "Receiving: ")
    print_result(
        {
            "sites": sites,
            "seconds_per_round": mine["overhead"],
            "stock_seconds_per_round": theirs["overhead"],
            "ratio": round(theirs["overhead"] / mine["overhead"], 1),
            "whole_round_seconds": mine["whole"],
            "stock_whole_round_seconds": theirs["whole"],
            "model_loads_per_site": mine["loads"],
            "stock_model_loads_per_site": theirs["loads"],
        }
    )


def trivial(model: Path, name: str, hospitals: list[str], rounds: int) -> RunConfig:
    """Return a run whose rounds are next to no work."""
    return small_config(
        model,
        name=name,
        federation={"sites": len(hospitals), "rounds": rounds, "sampling_rate": 0.1, "deadline": 300.0},
        simulation={"hospitals": hospitals, "patients": 10},
    )


def written(config: RunConfig, folder: Path) -> Path:
    """Write a run configuration."""
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = folder / f"{config.name}.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def start_stock(deployment: Deployment, site: str) -> None:
    """Start Flower's SuperNode for a site, with its own executor."""
    from bench.deployment import free_port

    folder = deployment.hospitals / site
    flower = Path(sys.executable).with_name("flower-supernode")
    deployment.start(
        site, flower, "--root-certificates", folder / "ca.crt", "--superlink", f"127.0.0.1:{deployment.port}",
        "--auth-supernode-private-key", folder / "keys" / "node", "--host", "127.0.0.1", "--port", free_port(),
        "--node-config", f'site-folder="{folder}"',
    )  # fmt: skip


def await_stock(deployment: Deployment, site: str) -> None:
    """Wait until Flower's SuperNode has its number."""
    until(lambda: "SuperNode ID" in deployment.log(site), lambda: deployment.log(site))


def run_stock(deployment: Deployment, path: Path) -> None:
    """Run the bundle by Flower's own command."""
    flwr = Path(sys.executable).with_name("flwr")
    command = [flwr, "run", ".", "prod", "--stream", "-c", f'config="{path}"']
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=deployment.environment, capture_output=True, text=True, timeout=PATIENCE
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr + "".join(deployment.log(site) for site in deployment.sites))


def slowest_work(deployment: Deployment) -> dict[int, float]:
    """Seconds that the slowest site itself worked, by round; the same tasks cost stock Flower the same."""
    slowest: dict[int, float] = {}
    for site in deployment.sites:
        for number, seconds in _WORK.findall(deployment.log(site)):
            slowest[int(number)] = max(slowest.get(int(number), 0.0), float(seconds))
    return slowest


def figures(deployment: Deployment, config: RunConfig, work: dict[int, float], loaded: str) -> dict[str, float]:
    """Return medians over rounds, and how often a site loaded the model: as often as its log says `loaded`."""
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        whole = {row.round: row.seconds for row in store.rounds()}
    return {
        "overhead": round(statistics.median(whole[number] - work[number] for number in whole), 2),
        "whole": round(statistics.median(whole.values()), 2),
        "loads": max(deployment.log(site).count(loaded) for site in deployment.sites),
    }


if __name__ == "__main__":
    typer.run(main)
