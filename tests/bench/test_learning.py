"""The measurement of learning: what it changes, what it counts, and that the page shows what was measured."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from bench import learning
from bench.learning import DEMO, ON_SUPPORT2, RECIPE, REDRAWN, SUPPORT2, VARIATIONS, Case, run_case
from bench.learning_page import BEGIN, shown, write
from bench.page import END
from client.privacy.mechanism import Exact
from client.training.contribution import gradient_sum
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from simulation.baselines import baselines
from simulation.prepare import prepare
from tests.paths import ROOT
from tests.small import small_config

DOCS = ROOT / "docs"


def changed(path: Path, variation: str) -> dict[str, object]:
    """Keys that a variation changes in a configuration, with their new values."""
    plain, varied = (Case(path, name, 1, curve=False).settings().model_dump() for name in (RECIPE, variation))
    return {
        f"{section}.{key}": value
        for section, values in varied.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != plain[section][key]
    }


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_variation_changes_one_setting_and_the_run_is_still_valid(variation: str) -> None:
    for path in (DEMO, *([SUPPORT2] if variation in ON_SUPPORT2 else [])):
        assert set(changed(path, variation)) == set(VARIATIONS[variation])
        RunConfig.model_validate(Case(path, variation, 1, curve=False).settings().model_dump())


def test_the_seeds_that_are_reported_are_none_that_a_setting_was_chosen_on() -> None:
    assert learning.VARIED_SEED not in learning.SEEDS and len(set(learning.SEEDS)) == 3


def test_a_run_shows_its_gain_over_the_best_without_training_and_is_not_run_twice(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = small_config(small_model).model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    (tmp_path / "run.toml").write_text(tomli_w.dumps(table))
    case = Case(tmp_path / "run.toml", RECIPE, 4, curve=True)
    result = run_case(case, tmp_path / "runs")
    assert result["gain_over_no_training"] == pytest.approx(result["federated"] - result["best_no_training"], abs=2e-4)
    assert result["best_no_training"] >= max(result["majority"], result["before"])
    assert list(result["curve"]) == ["0", "3"] and result["curve"]["0"] == result["before"]
    assert result["cpu_seconds"] > 0
    monkeypatch.setattr(learning, "run_rounds", None)
    assert run_case(case, tmp_path / "runs") == result


def test_a_gain_is_of_the_run_that_was_named_whatever_is_varied_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--seed 1 --vary` also runs the recipe of seed 1 on SUPPORT2."""

    def told(case: Case, runs: Path) -> dict[str, object]:
        gain = 0.25 if case.path == DEMO and case.curve else -0.5
        return {"variation": case.variation, "seed": case.seed, "gain_over_no_training": gain}

    monkeypatch.setenv("FEDREASON_DATA", str(tmp_path))
    monkeypatch.setattr(learning, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(learning, "run_case", told)
    monkeypatch.setattr(learning, "make_tiny", lambda *_: None)
    monkeypatch.setattr(learning, "table_of", lambda results: "")
    learning.main(run=DEMO, seed=[1], vary=True, runs=tmp_path, processes=1, docs=None)
    assert json.loads(capsys.readouterr().out)["gain_over_no_training"] == {"1": 0.25}


@pytest.mark.parametrize(("rounds", "sizes"), [(20, [4] * 5), (3, [1, 1, 1]), (7, [1, 1, 2, 1, 2])])
def test_fifths_hold_every_round_once_and_in_order(rounds: int, sizes: list[int]) -> None:
    parts = learning.fifths([*range(rounds)])  # type: ignore[arg-type]
    assert [len(part) for part in parts] == sizes
    assert [number for part in parts for number in part] == [*range(rounds)]


def test_questions_drawn_again_leave_fewer_groups_that_teach_nothing(small_model: Path, tmp_path: Path) -> None:
    config = small_config(
        small_model, federation={"sampling_rate": 1.0}, grpo={"kl": 0.0}, evaluation={"every": 0, "per_patient": 1}
    )
    site = Workplace(prepare(config, synthetic.codebook(), tmp_path)["north"])
    engine, patients = site.engine(config), site.training(config)

    def asked() -> tuple[int, int]:
        """Questions in all, and those that taught something."""
        _, counted = gradient_sum(engine, site.maker(config), patients, config, Exact(config, 1, 0, 0))
        return counted.questions, counted.questions - counted.zero_variance

    engine.set_adapter(np.zeros(engine.layout.size, dtype=np.float32))
    once = asked()
    with learning.redrawing():
        again = asked()
    assert once[0] == len(patients) * config.questions.per_patient
    assert again[0] > once[0] and once[1] < again[1] <= once[0]


def test_the_frequencies_of_the_patients_own_hospital_count_among_what_needs_no_training(
    small_model: Path, tmp_path: Path
) -> None:
    config = small_config(small_model, simulation={"patients": 80}, questions={"held_out": 0.5})
    folders = prepare(config, synthetic.codebook(), tmp_path)
    base = baselines([Workplace(folder) for folder in folders.values()], config)
    total = {name: sum(getattr(item, name) for item in base.values()) for name in ("majority", "own")}
    assert total["own"] > total["majority"], "hospitals differ"


def test_the_page_on_the_method_shows_what_was_measured() -> None:
    results = json.loads((DOCS / "learning.json").read_text())
    page = (DOCS / "method.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == shown(results).strip()
    recipe = [result for result in results if result["variation"] == RECIPE and result["seed"] in learning.SEEDS]
    assert [result["seed"] for result in recipe] == list(learning.SEEDS)
    assert all(result["gain_over_no_training"] >= 0.10 and result["cpu_seconds"] <= 180 for result in recipe)
    varied = {(result["run"], result["variation"]) for result in results if result["seed"] == learning.VARIED_SEED}
    assert {("demo", name) for name in VARIATIONS} | {("support2", name) for name in ON_SUPPORT2} <= varied
    assert ("demo", REDRAWN) in varied


def test_writing_the_page_again_changes_nothing_else(tmp_path: Path) -> None:
    results = json.loads((DOCS / "learning.json").read_text())
    (tmp_path / "method.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(results, tmp_path)
    once = (tmp_path / "method.md").read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    write(results, tmp_path)
    assert (tmp_path / "method.md").read_text() == once
