"""Leaks found by mutual information: what is derived is named, what is independent is not, however few the patients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.questions import leaks as found
from client.questions.leaks import (
    MISSING,
    SHUFFLES,
    THRESHOLD,
    coded_values,
    leaks,
    mutual_information,
    proposed_groups,
    shared_nats,
)
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from common.codebook import Codebook, load_codebook
from common.feature import Feature
from common.questions.question import Patient
from common.tasks import Task
from tests.examples import examples
from tests.paths import DATA, ROOT

SUPPORT2 = DATA / "support2" / "support2_sepsis_dev.csv"
real_data = pytest.mark.skipif(not SUPPORT2.exists(), reason="SUPPORT2 is not on this machine")


def numeric(name: str, **content: object) -> Feature:
    return Feature.model_validate(
        {"name": name, "section": "S", "label": name, "kind": "numeric", "low": -1e6, "high": 1e6, "step": 1} | content
    )


def pressures(count: int, seed: int = 0) -> list[Patient]:
    """Return patients with systolic, diastolic and mean pressure, a related pulse, an age, and a sex with a title."""
    random = np.random.default_rng(seed)
    systolic = random.normal(120, 20, count)
    diastolic = 15 + 0.5 * systolic + random.normal(0, 9, count)
    columns = {
        "sbp": systolic,
        "dbp": diastolic,
        "map": (systolic + 2 * diastolic) / 3,
        "pulse": 80 - 0.2 * systolic + random.normal(0, 10, count),
        "age": random.uniform(18, 90, count),
    }
    sexes = random.choice(["m", "f"], count)
    return [
        Patient(
            str(i),
            {name: str(round(values[i])) for name, values in columns.items()}
            | {"sex": sexes[i], "title": {"m": "Mr", "f": "Ms"}[sexes[i]]},
        )
        for i in range(count)
    ]


def pressure_codebook(**content: object) -> Codebook:
    names = ("sbp", "dbp", "map", "pulse", "age")
    sex = Feature(name="sex", section="S", label="sex", kind="categorical", categories={"m": "m", "f": "f"})
    title = Feature(name="title", section="S", label="title", kind="categorical", categories={"Mr": "Mr", "Ms": "Ms"})
    features = (*(numeric(name) for name in names), sex, title)
    return Codebook.model_validate({"title": "t", "patient": "id", "features": features} | content)


@examples(60)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 400), st.integers(0, 1000), st.floats(0, 1))
def test_mutual_information_is_that_of_scikit_learn(
    first: int, second: int, count: int, seed: int, copied: float
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    a, b = random.integers(first, size=count), random.integers(second, size=count)
    b = np.where(random.random(count) < copied, a % second, b)
    assert mutual_information(a, b) == pytest.approx(metrics.mutual_info_score(a, b), abs=1e-9)


@examples(60)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(100, 600), st.integers(0, 1000))
def test_independent_features_stay_far_below_the_threshold(first: int, second: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(first, size=count), random.integers(second, size=count)
    assert shared_nats(a, b) < 0.3 < THRESHOLD


def test_without_the_part_of_chance_taken_off_independent_features_would_be_leaks() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(20, size=100), random.integers(20, size=100)
    assert mutual_information(a, b) > 1.0
    assert shared_nats(a, b) < 0.1


def test_a_copy_is_found_from_a_hundred_patients_on_and_nothing_is_said_of_fewer() -> None:
    values = np.arange(100) % 10
    assert shared_nats(values, values) > 1.5
    assert shared_nats(values[:99], values[:99]) == 0.0
    assert shared_nats(values, np.where(values == 0, MISSING, values)) == 0.0


def test_what_is_derived_is_found_and_what_is_merely_related_is_not() -> None:
    found = leaks(pressure_codebook(), pressures(3000))
    assert found == {
        "sbp": frozenset({"map"}),
        "map": frozenset({"sbp", "dbp"}),
        "dbp": frozenset({"map"}),
        "sex": frozenset({"title"}),
        "title": frozenset({"sex"}),
    }


def test_values_that_only_some_patients_have_are_compared_over_those() -> None:
    patients = [
        Patient(patient.id, dict(patient.values) if place % 4 == 0 else {"sbp": patient.values["sbp"], "age": "50"})
        for place, patient in enumerate(pressures(2000))
    ]
    assert leaks(pressure_codebook(), patients)["map"] == {"sbp", "dbp"}


def test_the_order_of_patients_and_other_patients_visits_do_not_matter() -> None:
    patients = pressures(600)
    together = [Patient(a.id, a.values, visits=(b,)) for a, b in zip(patients[::2], patients[1::2], strict=True)]
    assert leaks(pressure_codebook(), patients) == leaks(pressure_codebook(), together)


def test_a_word_in_place_of_a_number_is_a_value_of_its_own() -> None:
    feature = numeric("x", words={"<1": "below 1"})
    codes = coded_values(feature, ["below 1", "1", None, "2", "3", "below 1"])
    assert codes[0] == codes[5] and codes[2] == MISSING
    assert len({int(code) for code in codes}) == 5


def test_a_person_is_shown_only_what_no_leak_group_hides_the_strongest_first() -> None:
    patients = pressures(2000)
    everything = proposed_groups(pressure_codebook(), patients)
    assert {"sbp", "dbp", "map", "sex", "title"} == {name for leak in everything for name in leak[:2]}
    assert [leak.nats for leak in everything] == sorted((leak.nats for leak in everything), reverse=True)
    grouped = pressure_codebook(leak_groups=(("sbp", "dbp", "map"),))
    assert [(leak.first, leak.second) for leak in proposed_groups(grouped, patients)] == [("sex", "title")]


def test_a_pair_of_which_neither_is_asked_is_not_proposed() -> None:
    codebook = pressure_codebook()
    quiet = [feature.model_copy(update={"ask": feature.name not in ("sex", "title")}) for feature in codebook.features]
    unasked = pressure_codebook(features=tuple(quiet))
    named = {leak.first for leak in proposed_groups(unasked, pressures(2000))}
    assert "sex" not in named and "sbp" in named
    task = Task(name="t", feature="sex", question="?")
    asked = pressure_codebook(features=tuple(quiet), tasks=(task,))
    assert ("sex", "title") in {(leak.first, leak.second) for leak in proposed_groups(asked, pressures(2000))}
    hidden = asked.model_copy(update={"tasks": (task.model_copy(update={"hidden": ("title",)}),)})
    assert "sex" not in {leak.first for leak in proposed_groups(hidden, pressures(2000))}


def test_what_leaks_a_later_value_is_proposed_where_the_feature_is_asked_by_that_task_alone() -> None:
    task = Task(name="t", kind="later", feature="sbp", hours=6, question="?")
    for timed, told in (({"sbp"}, True), ({"sbp", "map"}, False)):  # an earlier value of a series leaks nothing
        features = tuple(
            feature.model_copy(update={"series": feature.name in timed, "ask": False})
            for feature in pressure_codebook().features
        )
        book = pressure_codebook(features=features, tasks=(task,))
        pairs = [{leak.first, leak.second} for leak in proposed_groups(book, pressures(2000))]
        assert pairs == [{"sbp", "map"}] * told


def test_a_feature_is_coded_once_and_chance_is_reckoned_for_the_pairs_alone_that_share_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fifty features of ten thousand patients are 1,225 pairs, and chance is 20 shuffles of each."""
    coded, informed = [], []
    monkeypatch.setattr(found, "coded_values", lambda *given: coded.append(given) or coded_values(*given))
    monkeypatch.setattr(
        found, "mutual_information", lambda *given: informed.append(given) or mutual_information(*given)
    )
    random = np.random.default_rng(0)
    names = [f"f{i}" for i in range(20)]
    values = random.integers(0, 500, size=(2000, 20))
    values[:, 1] = values[:, 0]
    patients = [Patient(str(i), dict(zip(names, map(str, row), strict=True))) for i, row in enumerate(values.tolist())]
    codebook = Codebook(title="t", patient="id", features=tuple(numeric(name) for name in names))
    assert leaks(codebook, patients) == {"f0": {"f1"}, "f1": {"f0"}}
    assert len(coded) == 20 and len(informed) == 190 + SHUFFLES


@pytest.mark.real_data
@real_data
def test_of_support2_nothing_is_left_to_propose_and_without_its_groups_the_known_duplicates_are() -> None:
    codebook = load_codebook(ROOT / "configs" / "registries" / "support2.toml")
    patients = registry_from(read_delimited(SUPPORT2), codebook).patients
    assert proposed_groups(codebook, patients) == []
    features = tuple(feature.model_copy(update={"known_later": False}) for feature in codebook.features)
    bare = codebook.model_copy(update={"leak_groups": (), "features": features})
    open_book = Codebook.model_validate(bare.model_dump())
    assert {(leak.first, leak.second) for leak in proposed_groups(open_book, patients)} == {
        ("slos", "dnrday"),
        ("d.time", "sfdm2"),
    }
