"""Hundreds of rounds over real processes, one of which is killed now and then: what grows? `python -m bench.soak`.

Prints JSON: whether the adapter is that of an undisturbed run, and by thirds of the run the largest memory, open files,
processes and disk of every part. A part that leaks grows from third to third. With `--watch` also what a round took
while the dashboard's page was open and while it was not, by turns within the one run, and by how much that differs.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import torch
import typer

from bench.deployment import Deployment, descendants, free_port, started, state_split
from bench.result import print_result
from bench.round import written
from bench.waiting import PATIENCE
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import adapter_sha256
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.small import make_small_model, small_config

_PARTS = {"superlink": "flower-superlink", "superexec": "flower-superexec", "serverapp": "flwr-serverapp"}
_POLICY = {"metrics": "plain", "base_models": ["*"]}
_LOOK = 2.0
_TURN, _OPEN = 10, 7
"""Of ten rounds the page is open in the first seven; in the seventh and the tenth it is opened or closed."""


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of the run.")] = 500,
    every: Annotated[int, typer.Option(help="Rounds between two kills, on average.")] = 40,
    watch: Annotated[bool, typer.Option(help="Have the dashboard open, too, and kill it as the others.")] = False,
    seed: int = 1,
) -> None:
    """Run, kill, measure."""
    torch.set_num_threads(1)  # as the sites: bits depend on it
    hospitals = ["north", "south"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = small_config(
            make_small_model(folder / "model"),
            name="soak",
            federation={"sites": 2, "rounds": rounds, "sampling_rate": 0.05, "deadline": 600.0},
            simulation={"hospitals": hospitals, "patients": 10},
        )
        sites = prepare(config, synthetic.codebook(), folder / "p")
        for site_folder in sites.values():
            state_split(site_folder)
        with RunStore.opened(folder / "alone", config) as store:
            expected = adapter_sha256(run_rounds(config, LocalExchange([Workplace(f) for f in sites.values()]), store))
        with started(
            Deployment(folder / "d", {site: f / "registry.csv" for site, f in sites.items()}, _POLICY)
        ) as deployment:
            if watch:
                open_dashboard(deployment)
            looks, kills = soak(deployment, written(config, folder), rounds, every, random.Random(seed))
            with RunStore.opened(deployment.federation / "runs" / "soak", config) as store:
                done, took = store.load(), {row.round: row.seconds for row in store.rounds()}
    assert done is not None
    thirds = [looks[i * len(looks) // 3 : (i + 1) * len(looks) // 3] for i in range(3)]
    largest = {key: [max(look.get(key, 0) for look in third) for third in thirds] for key in sorted(looks[-1])}
    same = adapter_sha256(done.adapter) == expected
    memory = [max(look.get("dashboard MB", 0) for look in third) for third in thirds]
    watched = {"dashboard": beside(took, memory)} if watch else {}
    print_result({"rounds": done.round, "kills": kills, "same_adapter": same, "thirds": largest, **watched})
    if not same:
        sys.exit(1)


def soak(
    deployment: Deployment, path: Path, rounds: int, every: int, chance: random.Random
) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Run to the end; return what was seen every few seconds, and how often each part was killed."""
    run = deployment.start("run", sys.executable, "-m", "server", "run", path)
    looks: list[dict[str, int]] = []
    kills: dict[str, int] = {}
    due = chance.randint(1, 2 * every)
    while run.poll() is None:
        time.sleep(_LOOK)
        looks.append(look(deployment))
        number = standing(deployment).get("round", 0)
        if number >= due and number < rounds - 2:
            part = kill(deployment, chance)
            kills[part] = kills.get(part, 0) + 1
            due = number + chance.randint(1, 2 * every)
            print(f"round {number}: killed {part}", file=sys.stderr, flush=True)
    deployment.processes.pop("run")
    if run.returncode:
        sys.exit(deployment.log("run") + deployment.log("up"))
    return looks, kills


def beside(took: dict[int, float], memory: list[int]) -> dict[str, object]:
    """Return the dashboard's memory at first and at last, and the median round with its page open and without."""
    with_it = [seconds for number, seconds in took.items() if 0 < number % _TURN < _OPEN]
    without = [seconds for number, seconds in took.items() if number % _TURN > _OPEN]
    told: dict[str, object] = {"MB": {"first third": memory[0], "last third": memory[-1]}}
    if with_it and without:
        opened, closed = median(with_it), median(without)
        told["seconds a round"] = {"open": round(opened, 3), "closed": round(closed, 3)}
        told["rounds"] = {"open": len(with_it), "closed": len(without)}
        told["slower by %"] = round(100 * (opened / closed - 1), 2)
    return told


def start_dashboard(deployment: Deployment) -> None:
    """Start the dashboard at a port of its own."""
    deployment.start("dashboard", sys.executable, "-m", "server", "dashboard", "--port", free_port())


def open_dashboard(deployment: Deployment) -> None:
    """Start the dashboard and have its page of the run open in most rounds; where it is killed, of the next one."""
    start_dashboard(deployment)

    def wanted() -> bool:
        return standing(deployment).get("round", 0) % _TURN < _OPEN

    def watch() -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError, IndexError, OSError, ValueError):
                if not wanted():
                    time.sleep(0.1)
                    continue
                link = re.findall(r"Open (\S+)", deployment.log("dashboard"))[-1]
                client = httpx.Client(base_url=link.partition("/enter")[0], timeout=PATIENCE)
                client.get(link)
                with client.stream("GET", "/runs/soak", headers={"accept": "text/event-stream"}) as stream:
                    for _ in stream.iter_lines():
                        if not wanted():
                            break
                continue
            time.sleep(1.0)

    threading.Thread(target=watch, daemon=True).start()


def standing(deployment: Deployment) -> dict[str, Any]:
    """Return how the run stands."""
    path = deployment.federation / "runs" / "soak" / "standing.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def kill(deployment: Deployment, chance: random.Random) -> str:
    """Kill -9 one part; a site's node is started again, as its service manager would."""
    watched = ["dashboard"] if "dashboard" in deployment.processes else []
    part = chance.choice([*_PARTS, "node", "resident", *watched])
    site = chance.choice(deployment.sites)
    try:
        if part in _PARTS:
            deployment.kill("up", _PARTS[part])
        elif part == "dashboard":
            deployment.kill(part)
            deployment.processes.pop(part).wait()
            start_dashboard(deployment)
        elif part == "resident":
            deployment.kill(site, "client.node.resident")
        else:
            deployment.kill(site)
            deployment.processes.pop(site).wait()
            deployment.start_site(site)
    except StopIteration:
        return f"{part} (was not there)"
    return part


def look(deployment: Deployment) -> dict[str, int]:
    """Return memory (MB), open files and processes by part, and disk (kB)."""
    seen: dict[str, int] = {}
    up = descendants(deployment.processes["up"].pid) if "up" in deployment.processes else {}
    for part, text in _PARTS.items():
        for number in [number for number, line in up.items() if text in line]:
            _add(seen, part, number)
    if "dashboard" in deployment.processes:
        _add(seen, "dashboard", deployment.processes["dashboard"].pid)
    for site in deployment.sites:
        pid = deployment.processes[site].pid
        _add(seen, "node", pid)
        for number in descendants(pid):
            _add(seen, "resident", number)
    seen["processes"] = len(up) + sum(1 + len(descendants(deployment.processes[s].pid)) for s in deployment.sites)
    for name, place in (("state.db", deployment.federation / "superlink"), ("run", deployment.federation / "runs"),
                        ("sites", deployment.hospitals)):  # fmt: skip
        seen[f"{name} kB"] = sum(map(_size, place.rglob("*"))) // 1000
    return seen


def _size(path: Path) -> int:
    """Bytes of a file, none of one that has just gone."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _add(seen: dict[str, int], part: str, pid: int) -> None:
    """Keep the largest process of a part."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return
    memory = next((int(line.split()[1]) // 1000 for line in status.splitlines() if line.startswith("VmRSS")), 0)
    seen[f"{part} MB"] = max(seen.get(f"{part} MB", 0), memory)
    seen[f"{part} files"] = max(seen.get(f"{part} files", 0), files)


if __name__ == "__main__":
    typer.run(main)
