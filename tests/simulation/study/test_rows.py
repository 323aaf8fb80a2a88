"""The table holds numbers for people, and what is scored of an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.training.workplace import Workplace
from common import synthetic
from common.feature import Feature
from simulation.arms import of_some
from simulation.folders import open_sites
from simulation.study.config import Study, StudyConfig
from simulation.study.rows import UNKNOWN, Given, Rows, bands_of, group_of, numbers, schema_of
from simulation.study.units import prepare_units, seed_folder
from tests.small import small_config

AGE = Feature(name="age", section="s", label="Age", kind="numeric", low=0, high=99, step=5, words={"90+": "over 89"})


def small_study(**changes: object) -> Study:
    table = {"name": "small", "config": "run.toml", "seeds": [4, 5], "arms": ["before"], "subgroups": {"sex": []}}
    run = small_config(Path("tiny"), simulation={"patients": 24}, questions={"held_out": 0.5})
    return Study(StudyConfig.model_validate(table | changes), run, None, synthetic.codebook(), Path())


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Workplace]:
    folder, study = tmp_path_factory.mktemp("study"), small_study()
    assert prepare_units(study, folder) == ["north", "south", "west"]
    return open_sites(seed_folder(folder, 4))


def test_a_synthetic_patient_of_another_seed_is_somebody_else_and_a_real_one_the_same() -> None:
    study = small_study()
    people = [f"p{i:02}" for i in range(72)]
    first, second = (numbers(study, seed, people) for seed in (4, 5))
    assert set(first.values()) == set(range(72)) and set(second.values()) == set(range(72, 144))
    assert numbers(study, 4, reversed(people)) == first
    assert [first[name] for name in people] != sorted(first.values()), "not the order of the registry"
    simulation = study.plain.simulation
    assert simulation is not None
    real = study.plain.model_copy(update={"simulation": simulation.model_copy(update={"registry": "r.csv"})})
    study = Study(study.config, real, None, study.codebook, Path())
    assert numbers(study, 4, people) == numbers(study, 5, people)


def test_a_row_says_what_was_answered_and_nothing_that_names_the_patient(sites: list[Workplace]) -> None:
    study = small_study(outcomes={"mortality": "died"})
    question = sites[0].questions(study.plain)[0]
    shares = tuple(0.6 if i == 1 else 0.4 / (len(question.choices) - 1) for i in range(len(question.choices)))
    row = Rows(study, 4, sites).row("alone", "south", "north", question, Given(None, 1, shares))
    assert list(row) == schema_of(study.config).names
    assert row["answer"] is None and row["forced"] == "B" and row["truth"] == question.letter
    assert row["correct"] is False and row["forced_correct"] is (question.answer == 1)
    assert row["p_b"] == 0.6 and row["group_sex"] in ("male", "female")
    assert question.patient not in map(str, row.values()) and question.truth not in row.values()


def test_the_event_s_probability_is_that_of_its_letter(sites: list[Workplace]) -> None:
    study = small_study(outcomes={"mortality": "died"})
    site = sites[0]
    config = study.plain.model_copy(
        update={"questions": study.plain.questions.model_copy(update={"weights": {"mortality": 1.0}})}
    )
    rows, seen = Rows(study, 4, sites), set()
    for question in site.questions(config):
        row = rows.row("before", None, site.name, question, Given(0, 0, (0.7, 0.3)))
        assert row["event"] is (question.truth == "died") and row["task"] == "outcome"
        assert row["p_event"] == (0.7 if question.choices[0] == "died" else 0.3)
        seen.add(question.choices[0])
    assert seen == {"died", "survived"}, "either order"


@pytest.mark.parametrize(
    ("shown", "group"),
    [
        ("49.9", "below 50"),
        ("50", "50 to below 65"),
        ("64", "50 to below 65"),
        ("65", "65 and above"),
        ("over 89", UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_a_band_begins_at_its_number(shown: str | None, group: str) -> None:
    assert group_of(AGE, (50, 65), shown) == group


def test_bands_of_long_numbers_have_names_of_their_own() -> None:
    assert bands_of((1234567.0, 1234568.0)) == ["below 1234567", "1234567 to below 1234568", "1234568 and above"]


def test_some_sites_take_as_many_patients_a_round_as_all(sites: list[Workplace]) -> None:
    held_out = {"held_out": 0.5}
    config = small_config(
        Path("tiny"), federation={"population": 1000, "sampling_rate": 0.01, "quorum": 2}, questions=held_out
    )
    counts = {site.name: len(site.training(config)) for site in sites}
    assert len(set(counts.values())) > 1, "sites differ"
    expected = sum(counts.values()) * config.federation.sampling_rate
    for some in (sites[:1], sites[1:], sites[:2]):
        settings = of_some(config, sites, some)
        assert settings.federation.sampling_rate * sum(counts[s.name] for s in some) == pytest.approx(expected)
        assert settings.divisor == pytest.approx(config.divisor, rel=0.02)
        assert settings.federation.sites == settings.quorum == len(some)
        assert settings.federation.rounds == config.federation.rounds
    few = small_config(Path("tiny"), federation={"population": 30, "sampling_rate": 1.0}, questions=held_out)
    assert of_some(few, sites, sites[:1]).federation.sampling_rate == 1.0
