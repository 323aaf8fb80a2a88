"""What strangers can do to a federation that works: `python -m bench.flood`.

A real deployment on loopback runs rounds: a third undisturbed, a third under 20 slow connections and 1,000 anonymous
bodies of 20 MB, a third undisturbed again. Bounded in count and time; it stops by itself. Prints one line of JSON: the
median round under attack over that of the undisturbed ones of the same run, and the SuperLink's memory.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from bench.deployment import Deployment, deployed, descendants, until
from bench.round import trivial, written
from common import synthetic
from server.store import RunStore
from simulation.prepare import prepare
from tests.small import make_small_model

_POLICY = {"metrics": "plain", "base_models": ["*"]}
_BODY = 20_000_000
_PUSH = "/v1/fleet/push-messages"
_HEAD = f"POST {_PUSH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {_BODY}\r\n"
_SIGNED = f"flwr-signature: {'A' * 136}\r\nflwr-public-key: {'A' * 288}\r\nflwr-timestamp: 2026-01-01T00:00:00+00:00\r\n"


def main(
    slow: Annotated[int, typer.Option(min=0, max=200, help="Connections that send a byte a second.")] = 20,
    bodies: Annotated[int, typer.Option(min=1, max=10_000, help="Anonymous bodies of 20 MB.")] = 1000,
    rounds: Annotated[int, typer.Option(min=2, max=100, help="Rounds of each third.")] = 10,
    sites: Annotated[int, typer.Option(min=2, max=5, help="Sites.")] = 3,
) -> None:
    """Measure rounds of a real deployment, with and without strangers at the door."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hospitals = dict(list(synthetic.HOSPITALS.items())[:sites])
        config = trivial(make_small_model(folder / "model"), "flood", list(hospitals), 3 * rounds + 2)
        registries = {
            site: path / "registry.csv" for site, path in prepare(config, synthetic.codebook(), folder / "p").items()
        }
        with deployed(folder / "d", registries, _POLICY) as deployment:
            run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, folder))
            reached(deployment, rounds + 2)
            before, flood = memory(deployment), Flood(deployment, slow, bodies)
            with flood:
                reached(deployment, rounds + 3)
                first = finished(deployment)
                under = flood.wait(600)
                last = finished(deployment)
            most = memory(deployment)
            if run.wait(900):
                sys.exit(deployment.log("run") + deployment.log("up"))
            deployment.processes.pop("run")
            with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
                seconds = {row.round: row.seconds for row in store.rounds()}
            log = (deployment.federation / "deploy" / "nginx" / "access.log").stat().st_size
    attacked = [seconds[number] for number in seconds if first <= number <= last]
    calm = [seconds[number] for number in seconds if 2 < number < first - 1 or number > last + 1]
    print(
        json.dumps(
            {
                "rounds_under_attack": len(attacked),
                "rounds_undisturbed": len(calm),
                "seconds_under_attack": round(statistics.median(attacked), 2),
                "seconds_undisturbed": round(statistics.median(calm), 2),
                "slower": round(statistics.median(attacked) / statistics.median(calm), 3),
                "attack_seconds": round(under, 1),
                "answers": flood.answers,
                "superlink_mb_before": before,
                "superlink_mb_after": most,
                "nginx_log_bytes": log,
            }
        )
    )


class Flood:
    """Slow connections that stay until the last body was turned away; use it as a context, leaving ends all."""

    def __init__(self, deployment: Deployment, slow: int, bodies: int) -> None:
        self.answers: dict[str, int] = {}
        self._address = ("127.0.0.1", deployment.port)
        self._context = ssl.create_default_context(cafile=str(deployment.federation / "certificates" / "ca.crt"))
        self._over = threading.Event()
        self._slow, self._bodies = slow, bodies
        self._pool = ThreadPoolExecutor(slow + 1)
        self._started = time.monotonic()

    def __enter__(self) -> Flood:
        self._started = time.monotonic()
        for number in range(self._slow):
            self._pool.submit(self._drip, number)
        self._all = self._pool.submit(self._send_all)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def wait(self, seconds: float) -> float:
        """Wait for the last body; return how long the attack took."""
        self._all.result(seconds)
        return time.monotonic() - self._started
