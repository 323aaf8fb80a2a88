"""Questions from a registry of hospital size: `python -m bench.questions --patients 100000 --features 700`.

A CSV of that size is written (nine tenths of the cells filled, three in five features numeric), read as a site reads
it, and questions are drawn from random patients, whole records shown. That is done in one process on one core; the peer
reads the same file with pandas, every cell as text, in another. Prints JSON; times are CPU seconds, memory is the
largest that the process held.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.result import print_result
from common.codebook import Codebook
from common.feature import Feature

_SECTIONS = 20
_FILLED = 0.9
_BLOCK = 5_000


def codebook_of(features: int) -> Codebook:
    """Describe features: three in five numeric with up to two decimals, the others of two to eight categories."""
    described = []
    for number in range(features):
        place: dict[str, Any] = {
            "name": f"f{number}",
            "section": f"Section {number * _SECTIONS // features}",
            "label": f"Finding {number}",
        }
        if number % 5 < 3:
            decimals = number % 3
            described.append(
                Feature(**place, kind="numeric", unit="mg/dL", low=0, high=400, step=10, decimals=decimals)
            )
        else:
            categories = {str(code): f"category {code} of {number}" for code in range(2 + number % 7)}
            described.append(Feature(**place, kind="categorical", categories=categories))
    return Codebook(title="bench", patient="patient", features=tuple(described))


def write_registry(path: Path, codebook: Codebook, patients: int) -> None:
    """Write random patients as CSV, block by block."""
    import pandas as pd

    random = np.random.default_rng(0)
    for start in range(0, patients, _BLOCK):
        count = min(_BLOCK, patients - start)
        columns: dict[str, Any] = {"patient": [f"P{start + row:07d}" for row in range(count)]}
        for feature in codebook.features:
            if feature.kind == "numeric":
                cells = np.char.mod(f"%.{feature.decimals}f", np.clip(random.gamma(4, 25, count), 0, 400))
            else:
                cells = random.integers(0, len(feature.categories), count).astype(str)
            columns[feature.name] = np.where(random.random(count) < _FILLED, cells, "")
        pd.DataFrame(columns).to_csv(path, mode="a", header=start == 0, index=False)


def peak_gib() -> float:
    """Return the largest memory that this process held, in GiB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 2**20


def ours(path: Path, features: int, questions: int) -> dict[str, Any]:
    """Read the registry and draw questions."""
    from client.registry.delimited import read_delimited
    from client.registry.load import registry_from
    from common.questions.question import QuestionMaker
    from common.stream import Stream

    codebook = codebook_of(features)
    started = time.process_time()
    with closing(read_delimited(path)) as table:
        registry = registry_from(table, codebook)
    read = time.process_time() - started
    maker = QuestionMaker(codebook, "full")
    chosen = np.random.default_rng(1).integers(0, len(registry.patients), questions).tolist()
    started, lines = time.process_time(), 0
    for number, place in enumerate(chosen):
        patient = registry.patients[place]
        for question in maker.draw(patient, 1, Stream.named("bench", number)):
            lines += len(question.record)
    drawn = time.process_time() - started
    return {
        "patients": len(registry.patients),
        "features": features,
        "read_seconds": round(read, 3),
        "questions": questions,
        "questions_per_second": round(questions / drawn),
        "lines_per_question": round(lines / questions),
        "peak_gib": round(peak_gib(), 2),
    }


def pandas(path: Path) -> dict[str, Any]:
    """Read the same file with pandas, every cell as text."""
    import pandas as pd

    before = peak_gib()
    started = time.process_time()
    pd.read_csv(path, dtype=str, keep_default_na=False)
    return {"read_seconds": round(time.process_time() - started, 3), "peak_gib": round(max(peak_gib(), before), 2)}


def main(
    patients: Annotated[int, typer.Option(help="Rows of the registry.")] = 100_000,
    features: Annotated[int, typer.Option(help="Columns, all of them described and shown.")] = 700,
    questions: Annotated[int, typer.Option(help="Questions drawn.")] = 5_000,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
    path: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure, each part in a process of its own."""
    if part is not None and path is not None:
        print_result(ours(path, features, questions) if part == "ours" else pandas(path))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.csv"
        write_registry(path, codebook_of(features), patients)
        result: dict[str, Any] = {"file_mb": round(path.stat().st_size / 1e6)}
        parts = {}
        for name in ("ours", "pandas"):
            words = [sys.executable, "-m", "bench.questions", "--part", name, "--path", str(path)]
            words += ["--features", str(features), "--questions", str(questions)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            parts[name] = json.loads(done.stdout)
    result |= parts["ours"] | {f"pandas_{key}": value for key, value in parts["pandas"].items()}
    for key in ("read_seconds", "peak_gib"):
        result[f"{key}_ratio"] = round(result[key] / result[f"pandas_{key}"], 2)
    print_result(result)


if __name__ == "__main__":
    typer.run(main)
