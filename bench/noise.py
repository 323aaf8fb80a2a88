"""What the private mechanism costs on one core: `python -m bench.noise`.

Noise beside NumPy's rounded normal (no CSPRNG, not exact: only a yardstick), the two alternating in one process; the
clip of one patient; the coins of one round. Prints JSON; times are medians.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from bench.result import print_result
from client.privacy.clip import clipped
from client.privacy.keystream import Keystream
from client.privacy.noise import discrete_gaussian, table_of, total_variation
from client.privacy.sampling import poisson_sample

UNITS = 11_000
COORDINATES = {"Qwen2.5-7B, r 16, B of q and v": 1_800_000, "ten million": 10_000_000}


def seconds(work: Callable[[], object]) -> float:
    """Return the wall-clock time of a call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def noise(sigma: int, samples: int, repeats: int) -> dict[str, Any]:
    """Time noise of one width, and NumPy's."""
    generator = np.random.default_rng()
    table = seconds(lambda: table_of(sigma))
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds(lambda: discrete_gaussian(sigma, samples)))
        theirs.append(seconds(lambda: np.rint(generator.normal(0, sigma, samples)).astype(np.int64)))
    median = statistics.median(ours)
    return {
        "sigma_units": sigma,
        "table_seconds": round(table, 3),
        "seconds": round(median, 3),
        "samples_per_second": round(samples / median),
        "seconds_numpy": round(statistics.median(theirs), 3),
        "ratio_to_numpy": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2),
        "log2_total_variation": round(math.log2(total_variation(sigma)), 1),
    }


def clip(name: str, size: int, repeats: int) -> dict[str, Any]:
    """Time the clip of one patient whose gradient is three times too long."""
    gradient = np.random.default_rng(0).normal(0, 3 / math.sqrt(size), size).astype(np.float32)
    times = [seconds(lambda: clipped(gradient, 1.0, UNITS, Keystream())) for _ in range(repeats)]
    return {"model": name, "coordinates": size, "milliseconds": round(1000 * statistics.median(times), 1)}


def main(
    sigma: Annotated[list[int], typer.Option(help="widths", default_factory=lambda: [UNITS, 48_000])],
    samples: Annotated[int, typer.Option(help="integers of noise in one draw")] = 10_000_000,
    repeats: Annotated[int, typer.Option(help="how often each is timed")] = 5,
) -> None:
    """Time noise, clip and sampling; the last line is JSON."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures: dict[str, Any] = {"samples": samples, "cores": 1, "noise": []}
    for width in sigma:
        figures["noise"].append(noise(width, samples, repeats))
        print(f"noise of {width} units: {figures['noise'][-1]['seconds']} s", file=sys.stderr)
    figures["clip"] = [clip(name, size, repeats) for name, size in COORDINATES.items()]
    times = [seconds(lambda: poisson_sample(range(100_000), 0.2)) for _ in range(repeats)]
    figures["sampling"] = {"patients": 100_000, "milliseconds": round(1000 * statistics.median(times), 1)}
    print_result(figures)


if __name__ == "__main__":
    typer.run(main)
