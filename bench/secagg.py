"""What secure aggregation costs on one core: `python -m bench.secagg --parameters 10_000_000 --sites 10 --drop 1`.

A whole session of the protocol in one process, without a network: every message is counted as it would travel, the sum
is compared with the plain one, and the masks that Flower's SecAgg+ makes for one site of the same size are made beside
it. Prints JSON. Seconds are those of the processor: other work on the machine hardly changes them.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from bench.result import print_result
from common.arrays import Integers
from common.identity.keys import new_node_key, new_signing_key, public_text
from common.identity.roster import Member, Roster
from common.secagg.messages import Message, parts_of
from common.secagg.server import Server
from common.secagg.session import Session
from common.secagg.site import Site
from common.secagg.terms import FEWEST, Limits, Terms, threshold

_Result = TypeVar("_Result")
_SERVER = "the coordinator"
_EXCHANGES = 5
_LOST_IN = 3


class Clock:
    """Seconds of the processor, by who worked."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def timed(self, who: str, work: Callable[[], _Result]) -> _Result:
        """Do some work and count it."""
        started = time.process_time()
        result = work()
        self.seconds[who] += time.process_time() - started
        return result


class Memory:
    """A journal's store that forgets with the process."""

    content: bytes | None = None

    def read(self) -> bytes | None:
        """Return what was written."""
        return self.content

    def write(self, content: bytes) -> None:
        """Keep it."""
        self.content = content


def sized(message: Message) -> int:
    """Return the bytes of a message's content."""
    parts = parts_of(message)
    return len(json.dumps(parts.head)) + sum(array.nbytes for array in parts.arrays.values())


def session(parameters: int, count: int, drop: int) -> dict[str, Any]:
    """Run one session in which the last `drop` sites are lost after they shared keys."""
    keys = {f"site-{number:03}": new_signing_key() for number in range(count)}
    now = datetime.now(UTC)
    members = [
        Member(site=n, signing_key=public_text(k), node_key=public_text(new_node_key()), admitted=now.date())
        for n, k in keys.items()
    ]
    roster = Roster(federation="bench", version=1, issued=now, members=tuple(members))
    this = Session("bench", "bench", "", 1, 1, "", "", roster.version, roster.sha256)
    terms, clock = Terms(parameters, 32), Clock()
    base = np.random.default_rng(0).integers(-(2**20), 2**20, parameters)

    def site_of(number: int, name: str) -> Site:
        def contribute(share: int | None) -> Integers:
            started = time.process_time()
            total = base + number
            clock.seconds[name] -= time.process_time() - started
            return total

        return Site(
            name=name,
            key=keys[name],
            roster=roster,
            session=this,
            terms=terms,
            limits=Limits(cohort=FEWEST),
            store=Memory(),
            contribute=contribute,
        )

    sites = {name: site_of(number, name) for number, name in enumerate(keys)}
    server = Server(session=this, terms=terms, roster=roster, invited=keys)
    lost = list(keys)[count - drop :]
    traffic: defaultdict[str, int] = defaultdict(int)
    for exchange in range(1, _EXCHANGES + 1):
        for name, message in clock.timed(_SERVER, server.proceed).items():
            if name in lost and exchange >= _LOST_IN:
                continue
            answer = clock.timed(name, partial(sites[name].take, message))
            clock.timed(_SERVER, partial(server.take, answer))
            traffic[name] += sized(message) + sized(answer)
            print(f"exchange {exchange}: {name}", file=sys.stderr)
    total = clock.timed(_SERVER, server.total)
    there = range(count - drop)
    base *= len(there)
    base += sum(there)
    return {
        "exact": bool(np.array_equal(total, base)),
        "seconds_site": round(statistics.median(clock.seconds[name] for name in server.survivors), 3),
        "seconds_server": round(clock.seconds[_SERVER], 3),
        "bytes_per_parameter": round(max(traffic.values()) / parameters, 3),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def flower_seconds(parameters: int, count: int) -> float:
    """Return the seconds that Flower's SecAgg+ takes for the masks of one site: its own and one for every peer."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    clock = Clock()
    for _ in range(count):
        clock.timed("flower", lambda: pseudo_rand_gen(os.urandom(32), 1 << 32, [(parameters,)]))
    return clock.seconds["flower"]


def main(
    parameters: Annotated[int, typer.Option(min=1, help="integers in a sum")] = 10_000_000,
    sites: Annotated[int, typer.Option(min=FEWEST, help="sites in the cohort")] = 10,
    drop: Annotated[int, typer.Option(min=0, help="sites lost after they shared keys")] = 1,
) -> None:
    """Run one session and Flower's masks; the last line is JSON."""
    if drop > sites - threshold(sites):
        raise typer.BadParameter(f"{sites} sites can lose {sites - threshold(sites)}", param_hint="--drop")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures: dict[str, Any] = {"parameters": parameters, "sites": sites, "drop": drop, "cores": 1}
    figures |= session(parameters, sites, drop)
    figures["flower_seconds"] = round(flower_seconds(parameters, sites), 3)
    print_result(figures)


if __name__ == "__main__":
    typer.run(main)
