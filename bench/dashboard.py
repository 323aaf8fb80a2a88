"""What the coordinator's dashboard costs: `python -m bench.dashboard`.

A real process serves the store of a long run of many sites. Prints one line of JSON: seconds to its first pages and
to a page once it is drawn, how large the process is while browsers watch a run, and quartiles of what a round takes
while it works over what it takes while it is halted, in turns of the same run: the coordinator's own writing alone
(rows, checkpoint, standing, each flushed to disk), and with the pause in which sites compute.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from bench.deployment import descendants, free_port
from bench.result import print_result
from bench.stored import evaluation_of, federation_of, round_of, stored
from bench.waiting import PATIENCE
from common.config import RunConfig
from common.processes import die_with_parent
from server.provisioning.federation import Federation
from server.rounds.standing import StandingFile
from server.rounds.store import Checkpoint, RunStore
from tests.small import small_config

_SETTLED = 3.0
LIVE = {"accept": "text/event-stream"}


def main(
    sites: Annotated[int, typer.Option(min=3, help="Sites of the stored run.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that it has done.")] = 1000,
    more: Annotated[int, typer.Option(min=10, help="Rounds that it does while it is watched.")] = 500,
    turn: Annotated[int, typer.Option(min=1, help="Rounds until the dashboard is halted, or goes on.")] = 10,
    browsers: Annotated[int, typer.Option(min=1, help="Live pages that are open.")] = 3,
    parameters: Annotated[int, typer.Option(help="Size of the adapter that each round writes.")] = 1_000_000,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two rounds, for what sites compute.")] = 0.2,
) -> None:
    """Measure."""
    names = [f"site{number:03d}" for number in range(sites)]
    with tempfile.TemporaryDirectory() as folder:
        federation = federation_of(Path(folder), names, free_port())
        shape = {"sites": sites, "quorum": 1, "rounds": rounds + more + 1}
        config = small_config(Path("none"), name="long", federation=shape)
        standing = stored(federation.runs / "long", config, names, rounds)
        with serving(federation) as (process, link):
            found = first_pages(link)
            done = Work(federation.runs / "long", config, standing, parameters, pause)
            found |= watched(done, link, process, (rounds, more, turn), browsers)
    print_result({"sites": sites, "stored_rounds": rounds, **found})


@contextlib.contextmanager
def serving(federation: Federation) -> Iterator[tuple[int, str]]:
    """Start the dashboard as people do; yields its process and its link."""
    command = [sys.executable, "-m", "server", "dashboard", "--port", "0", "--federation", str(federation.folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
    assert process.stderr is not None
    try:
        yield process.pid, re.sub(r"^.*?(http\S+)\s*$", r"\1", process.stderr.readline())
    finally:
        process.kill()
        process.wait()


def first_pages(link: str) -> dict[str, float]:
    """Return seconds to the first pages of a process that has read nothing yet, and to the same once more."""
    client = come_in(link)
    pages = {"first_page": "/", "first_run_page": "/runs/long", "run_page_again": "/runs/long"}
    found = {}
    for name, path in pages.items():
        began = time.monotonic()
        client.get(path).raise_for_status()
        found[f"{name}_seconds"] = round(time.monotonic() - began, 3)
    return found


def come_in(link: str) -> httpx.Client:
    """Return a browser that has come in by the link; the first page is not asked for."""
    client = httpx.Client(base_url=link.partition("/enter")[0], timeout=PATIENCE)
    client.get(link)
    return client


class Watching:
    """Live pages of the run that are open until the block is left; `news` counts the sections that came anew."""

    def __init__(self, link: str, browsers: int) -> None:
        self._link, self._browsers = link, browsers
        self._over = threading.Event()
        self.news = 0

    def _watch(self) -> None:
        client = come_in(self._link)
        live = client.stream("GET", "/runs/long", headers=LIVE)
        with contextlib.suppress(httpx.HTTPError), live as stream:  # the dashboard is killed at the end
            for line in stream.iter_lines():
                self.news += line.startswith("event: section")
                if self._over.is_set():
                    return

    def __enter__(self) -> Watching:
        self._threads = [threading.Thread(target=self._watch, daemon=True) for _ in range(self._browsers)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()


@dataclass(frozen=True)
class Work:
    """What a coordinator does between two answers of all sites, after a pause in which they compute."""

    folder: Path
    config: RunConfig
    standing: StandingFile
    parameters: int
    pause: float


def watched(work: Work, link: str, process: int, of: tuple[int, int, int], browsers: int) -> dict[str, Any]:
    """Do rounds while the dashboard works and while it is halted, in turns; return what they took, and its size."""
    rounds, more, turn = of
    names = list(work.standing.current.contact)
    adapter = np.zeros(work.parameters, dtype=np.float32)
    turns: dict[bool, list[float]] = {True: [], False: []}
    sizes: list[int] = []
    busy = awake = 0.0
    with RunStore.opened(work.folder, work.config) as store, Watching(link, browsers) as watching:
        time.sleep(_SETTLED)
        for place, begin in enumerate(range(rounds + 1, rounds + more + 1, turn)):
            looked = place % 2 == 0
            os.kill(process, signal.SIGCONT if looked else signal.SIGSTOP)
            took, before, started = [], cpu_seconds(process), time.monotonic()
            for number in range(begin, min(begin + turn, rounds + more + 1)):
                time.sleep(work.pause)
                began = time.monotonic()
                one_round(store, work.standing, number, names, adapter)
                took.append(time.monotonic() - began)
                sizes.append(megabytes(process))
            turns[looked].append(statistics.mean(took))
            if looked:  # halted it computes nothing
                busy, awake = busy + cpu_seconds(process) - before, awake + time.monotonic() - started
        os.kill(process, signal.SIGCONT)
    third = len(sizes) / 3
    pairs = list(zip(turns[True], turns[False], strict=False))
    return {
        "rounds": more,
        "browsers": browsers,
        "news": watching.news,
        "writing_seconds": {"watched": statistics.median(turns[True]), "halted": statistics.median(turns[False])},
        "writing_ratios": spread([seen / alone for seen, alone in pairs]),
        "round_ratios": spread([(work.pause + seen) / (work.pause + alone) for seen, alone in pairs]),
        "dashboard_cores": busy / awake,
        "dashboard_mb_by_thirds": [max(sizes[int(i * third) : int((i + 1) * third)]) for i in range(3)],
    }


def spread(ratios: list[float]) -> list[float]:
    """Return the quartiles of ratios, the median in the middle."""
    return [round(one, 3) for one in statistics.quantiles([*ratios, *ratios], n=4)]


def one_round(store: RunStore, standing: StandingFile, number: int, names: list[str], adapter: Any) -> None:
    """Write what a coordinator writes of a round: its row, an evaluation, the checkpoint, and how it stands."""
    standing.tell(round=number, exchange="train", waiting_for=tuple(names), answered={})
    store.record(round_of(number, names))
    store.record(evaluation_of(number, names[number % len(names)], 0))
    store.save(Checkpoint(number, adapter, {}))
    standing.tell(waiting_for=(), answered=dict.fromkeys(names, 1.0))


def megabytes(process: int) -> int:
    """Memory of a process and those below it."""
    return sum(_resident(number) for number in [process, *descendants(process)]) // 1000


def cpu_seconds(process: int) -> float:
    """Return what a process has computed so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


if __name__ == "__main__":
    typer.run(main)
