"""What strangers can do to a federation that works: `python -m bench.flood`.

A real deployment on loopback runs rounds. Every other ten seconds 20 slow connections and a share of 1,000 anonymous
bodies of 20 MB are at its door; `--forged` sends bodies of 5 MB with made-up signatures instead, under a key that
nobody admitted, `--known` under that of a site, which only the SuperLink can tell from real ones. Bounded in count and
time; it stops by itself. Prints one line of JSON: the median round under attack over that of the undisturbed ones of
the same run (null where no round was done), whether the run lived, and the SuperLink's memory.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from bench.deployment import Deployment, started
from bench.result import print_result
from bench.round import trivial, written
from bench.soak import look
from bench.waiting import until
from common import synthetic
from common.identity.keys import load_node_key, new_node_key
from server.rounds.store import RunStore
from simulation.prepare import prepare
from tests.small import make_small_model

NAME = "flood"
_ROUNDS = 2000
"""More than there is time for; the run is aborted."""
_POLICY = {"metrics": "plain", "base_models": ["*"], "max_rounds": _ROUNDS}
_LONGEST_SLICE_SECONDS = 90.0
_SENDERS = 4
_LONGEST_SECONDS = 900.0
_FORGED = {
    "flwr-signature": "A" * 136,
    "flwr-timestamp": "2026-01-01T00:00:00+00:00",
}
_CHUNK = b"\0" * 65536


def main(
    slow: Annotated[int, typer.Option(min=0, max=200, help="Connections that send a byte a second.")] = 20,
    bodies: Annotated[int, typer.Option(min=1, max=10_000, help="Anonymous bodies.")] = 1000,
    rate: Annotated[float, typer.Option(min=1, max=1000, help="Bodies a second, while there are any.")] = 25.0,
    sites: Annotated[int, typer.Option(min=1, max=5, help="Sites.")] = 3,
    forged: Annotated[bool, typer.Option("--forged", help="Bodies of 5 MB with made-up signatures.")] = False,
    known: Annotated[bool, typer.Option("--known", help="Made up for a site's own public key.")] = False,
    seconds: Annotated[float, typer.Option(min=1, help="Of every slice, with strangers or without, at least.")] = 10.0,
) -> None:
    """Measure rounds of a real deployment, with and without strangers at the door."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = trivial(make_small_model(folder / "model"), NAME, list(synthetic.HOSPITALS)[:sites], _ROUNDS)
        registries = {
            site: path / "registry.csv" for site, path in prepare(config, synthetic.codebook(), folder / "p").items()
        }
        with started(Deployment(folder / "d", registries, _POLICY)) as deployment:
            run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, folder))
            until(lambda: standing_round(deployment) > 3, lambda: deployment.log("run"))
            key = public_key(deployment, known=known) if forged or known else None
            strangers = Strangers(deployment, slow, bodies, rate, key)
            slices = attack(deployment, strangers, seconds)
            alive = run.poll() is None
            deployment.command("server", "abort", NAME)
            deployment.end("run")
            with RunStore.opened(deployment.federation / "runs" / NAME, config) as store:
                seconds = {row.round: row.seconds for row in store.rounds()}
            logs = sum(path.stat().st_size for path in (deployment.federation / "deploy" / "nginx").glob("*.log"))
    calm, attacked = (median_seconds(slices, seconds, attacked=kind) for kind in (False, True))
    print_result(
        {
            "bodies": sum(strangers.answers.values()),
            "slow_connections": slow,
            "forged": forged or known,
            "known_key": known,
            "answers": dict(sorted(strangers.answers.items())),
            "rounds": sum(len(one.rounds) for one in slices),
            "run_alive": alive,
            "seconds_undisturbed": calm,
            "seconds_under_attack": attacked,
            "slower": round(attacked / calm, 3) if attacked and calm else None,
            "superlink_mb": [slices[0].memory, slices[-1].memory],
            "nginx_log_bytes": logs,
        }
    )


def public_key(deployment: Deployment, *, known: bool) -> str:
    """Return the header with a public key: that of a site, which is no secret, or one that nobody admitted."""
    folder = deployment.hospitals / deployment.sites[0]
    key = load_node_key(folder / "keys" / "node") if known else new_node_key()
    return base64.b64encode(public_key_to_bytes(key.public_key())).decode()


def median_seconds(slices: Sequence[Slice], seconds: Mapping[int, float], *, attacked: bool) -> float | None:
    """Return the median time of the rounds under attack or not; None where no round was whole in any slice."""
    found = [seconds[r] for one in slices if one.attacked is attacked for r in one.rounds if r in seconds]
    return round(statistics.median(found), 3) if found else None


class Slice:
    """A while with or without strangers, at least as long as two rounds take, and the rounds that lie wholly in it."""

    def __init__(self, deployment: Deployment, seconds: float, *, attacked: bool) -> None:
        self.attacked = attacked
        first = standing_round(deployment) + 1
        end = time.monotonic() + _LONGEST_SLICE_SECONDS
        time.sleep(seconds)
        while (now := standing_round(deployment)) <= first and time.monotonic() < end:
            time.sleep(0.5)
        self.rounds = range(first, now)
        self.memory = look(deployment)["superlink MB"]


def attack(deployment: Deployment, strangers: Strangers, seconds: float) -> list[Slice]:
    """Alternate until every body was sent; every attack has undisturbed rounds before and after."""
    os.nice(19)  # strangers compute on machines of their own
    slices, end = [Slice(deployment, seconds, attacked=False)], time.monotonic() + _LONGEST_SECONDS
    while not strangers.done and time.monotonic() < end:
        with strangers:
            slices.append(Slice(deployment, seconds, attacked=True))
        slices.append(Slice(deployment, seconds, attacked=False))
    return slices


class Strangers:
    """Slow connections and bodies; they are at the door while this context is entered."""

    def __init__(self, deployment: Deployment, slow: int, bodies: int, rate: float, key: str | None) -> None:
        self.answers: Counter[str] = Counter()
        self._address, self._slow, self._left, self._pause = ("127.0.0.1", deployment.port), slow, bodies, 1 / rate
        self._context = ssl.create_default_context(cafile=str(deployment.federation / "certificates" / "ca.crt"))
        self._size = 5_000_000 if key else 20_000_000
        head = {"Host": "localhost", "Content-Length": str(self._size)}
        if key:
            head |= {"Content-Type": "application/protobuf", "flwr-public-key": key, **_FORGED}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self._head = f"POST /v1/fleet/{'push-object' if key else 'push-messages'} HTTP/1.1\r\n{lines}\r\n".encode()
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether every body was sent."""
        return self._left <= 0

    def __enter__(self) -> Strangers:
        self._over = threading.Event()
        self._next = time.monotonic()
        self._pool = ThreadPoolExecutor(self._slow + _SENDERS)
        for _ in range(self._slow):
            self._pool.submit(self._drip)
        for _ in range(_SENDERS):
            self._pool.submit(self._send)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()

    def _drip(self) -> None:
        """Send a byte a second, and come back when thrown out."""
        while not self._over.is_set():
            with contextlib.suppress(OSError), self._link() as link:
                for byte in self._head[:-2]:
                    link.send(bytes([byte]))
                    if self._over.wait(1.0):
                        return

    def _send(self) -> None:
        """Send one body after the other, at the common rate."""
        while not self._over.is_set():
            with self._lock:
                if self._left <= 0:
                    return
                self._left -= 1
                self._next = max(self._next + self._pause, time.monotonic())
                due = self._next
            self._over.wait(max(0.0, due - time.monotonic()))
            answer = self._body()
            with self._lock:
                self.answers[answer] += 1

    def _body(self) -> str:
        """Send one body as far as it is taken, and return the status."""
        try:
            with self._link() as link:
                link.sendall(self._head)
                with contextlib.suppress(OSError):
                    for _ in range(self._size // len(_CHUNK) + 1):
                        link.sendall(_CHUNK)
                return link.recv(12)[9:].decode() or "closed"
        except OSError:
            return "closed"

    def _link(self) -> ssl.SSLSocket:
        return self._context.wrap_socket(socket.create_connection(self._address, 20), server_hostname="localhost")


def standing_round(deployment: Deployment) -> int:
    """Return the round that the run is in."""
    path = deployment.federation / "runs" / NAME / "standing.json"
    return int(json.loads(path.read_text()).get("round", 0)) if path.exists() else 0


if __name__ == "__main__":
    typer.run(main)
