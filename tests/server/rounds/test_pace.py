"""How long a round takes: from rounds that were recorded, within a factor of two; else a guess that says so."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.config import LatticeConfig, PrivacyConfig, RunConfig
from server.reports.tables import pace_text
from server.rounds.pace import ROUND_SECONDS, Measured, comparable, groups_of_the_slowest, groups_per_round, pace
from server.rounds.store import RoundRow, RunStore
from tests.scripted_grid import federation_of
from tests.small import small_config

# Seconds of rounds of real deployments of configs/demo.toml on two cores, three sites, and what the sites said before.
DEMO = small_config(
    Path("none"),
    questions={"per_patient": 4},
    federation={"population": 900, "sites": 3, "sampling_rate": 0.013333333333333334},
)
FULLER = federation_of(DEMO, sampling_rate=0.15)
RECORDED = {
    "quiet": (DEMO, (1.0, 1.1, 1.0, 1.9, 1.5, 1.0, 2.5, 1.2, 1.0, 1.0, 1.0, 1.1), (0.01, 0.01, 0.01)),
    "others at work": (DEMO, (1.0, 2.6, 1.9, 1.0, 1.6, 1.1, 1.6, 1.4, 1.5, 1.0, 1.0, 1.5), (0.02, 0.02, 0.02)),
    "many patients, others at work": (FULLER, (13.5, 16.3, 21.3, 20.2, 17.3), (0.08, 0.1, 0.1)),
}


def recorded(folder: Path, config: RunConfig, *seconds: float, refused: dict[str, int] | None = None) -> None:
    """Write the rounds of a run as the coordinator does."""
    with RunStore.opened(folder / config.name, config) as store:
        for number, each in enumerate(seconds, start=1):
            store.record(
                RoundRow(
                    round=number,
                    seconds=each,
                    sites=["a", "b", "c"],
                    refused=refused or {},
                    bytes_up=1,
                    bytes_down=1,
                    counts=None,
                    gradient_norm=1.0,
                    adapter_sha256="0" * 64,
                )
            )


def median(values: tuple[float, ...]) -> float:
    return sorted(values)[len(values) // 2]


@pytest.mark.parametrize("name", RECORDED)
def test_a_guess_from_what_sites_said_is_within_a_factor_of_two_of_recorded_rounds(name: str) -> None:
    config, seconds, said = RECORDED[name]
    guess = pace(config, said, ())
    assert guess is not None and guess.rough
    assert 0.5 < guess.seconds / median(seconds) < 2


@pytest.mark.parametrize("name", RECORDED)
def test_an_estimate_from_the_first_rounds_is_within_a_factor_of_two_of_the_rest(name: str, tmp_path: Path) -> None:
    config, seconds, _ = RECORDED[name]
    recorded(tmp_path, config, *seconds[:3])
    found = pace(config, (37.0,), comparable(tmp_path, config))
    assert found is not None and (found.rounds, found.run) == (3, "small")
    assert 0.5 < found.seconds / median(seconds[3:]) < 2


def test_rounds_of_many_fewer_patients_say_nothing(tmp_path: Path) -> None:
    """Scaled they would be off by a factor of 2.7: what a round costs anyway is most of a short one."""
    recorded(tmp_path, DEMO.model_copy(update={"name": "few"}), *RECORDED["others at work"][1])
    guess = pace(FULLER, (0.1,), comparable(tmp_path, FULLER))
    assert guess is not None and guess.rough
    assert 0.5 < guess.seconds / median(RECORDED["many patients, others at work"][1]) < 2


def test_measured_rounds_count_more_than_what_sites_say_and_too_few_do_not_count(tmp_path: Path) -> None:
    recorded(tmp_path, DEMO, 10.0, 12.0)
    assert pace(DEMO, (1.0,), comparable(tmp_path, DEMO)) == pace(DEMO, (1.0,), ())
    recorded(tmp_path, DEMO, 10.0, 12.0, 11.0)
    found = pace(DEMO, (1.0,), comparable(tmp_path, DEMO))
    assert found is not None and found.seconds == pytest.approx(11.0)


def test_rounds_that_waited_for_a_site_that_did_not_come_say_nothing(tmp_path: Path) -> None:
    recorded(tmp_path, DEMO, 3600.0, 3600.0, 3600.0, refused={"c": 813})
    assert [one.seconds for one in comparable(tmp_path, DEMO)] == [()]


def test_only_runs_that_ask_the_same_work_of_a_group_are_compared(tmp_path: Path) -> None:
    recorded(tmp_path, DEMO.model_copy(update={"name": "longer", "seed": 9}), 5.0, 5.0, 5.0)
    grpo = DEMO.grpo.model_copy(update={"group_size": 8})
    recorded(tmp_path, DEMO.model_copy(update={"name": "other", "grpo": grpo}), 90.0, 90.0, 90.0)
    assert [one.config.name for one in comparable(tmp_path, DEMO)] == ["longer"]


def test_a_run_with_more_patients_in_a_round_is_scaled_and_what_a_round_costs_anyway_is_not() -> None:
    more = federation_of(FULLER, sampling_rate=0.25)
    measured = Measured(FULLER, (ROUND_SECONDS + 2.0,) * 3)
    found = pace(more, (), [measured])
    ratio = groups_of_the_slowest(more) / groups_of_the_slowest(FULLER)
    assert found is not None and found.seconds == pytest.approx(ROUND_SECONDS + 2.0 * ratio)
    assert 1.5 < ratio < 1.7


def test_a_secure_round_takes_five_exchanges_and_rounds_of_the_other_kind_say_nothing(tmp_path: Path) -> None:
    secure = DEMO.model_copy(update={"lattice": LatticeConfig(bits=20, clip_norm=1.0)})
    secure = federation_of(secure, aggregation="secure")
    plainly, secretly = pace(DEMO, (0.01,), ()), pace(secure, (0.01,), ())
    assert plainly is not None and secretly is not None
    assert secretly.seconds - plainly.seconds == pytest.approx(4 * ROUND_SECONDS)
    recorded(tmp_path, DEMO, 1.0, 1.0, 1.0)
    assert list(comparable(tmp_path, secure)) == []


@pytest.mark.parametrize(("each", "expected"), [(0.001, 60.0), (59.0, 60.0), (61.0, 120.0)])
def test_a_private_answer_leaves_at_a_multiple_of_its_interval(tmp_path: Path, each: float, expected: float) -> None:
    private = DEMO.model_copy(update={"privacy": PrivacyConfig(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5)})
    found = pace(private, (each / groups_of_the_slowest(private),), ())
    assert found is not None and found.seconds == pytest.approx(ROUND_SECONDS + expected)
    recorded(tmp_path, private, 61.0, 61.0, 61.0)
    at_once = private.model_copy(update={"privacy": private.privacy.model_copy(update={"answer_every": 0.0})})
    assert list(comparable(tmp_path, at_once)) == []


@pytest.mark.parametrize("sites", [1, 2, 3, 6])
def test_the_slowest_site_has_as_many_groups_as_drawing_says(sites: int) -> None:
    config = federation_of(DEMO, sites=sites, population=200 * sites, sampling_rate=0.05)
    coins = random.Random(1)
    draws = [max(sum(coins.random() < 0.05 for _ in range(200)) for _ in range(sites)) for _ in range(400)]
    assert groups_of_the_slowest(config) / 4 == pytest.approx(sum(draws) / len(draws), rel=0.08)
    assert groups_of_the_slowest(config) >= groups_per_round(config)


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert pace(DEMO, (), ()) is None


def test_a_guess_says_that_it_is_one() -> None:
    guess = pace(DEMO, (0.5,), ())
    found = pace(DEMO, (), [Measured(DEMO, (2.0, 2.0, 2.0))])
    assert guess is not None and "roughly" in pace_text(guess) and "no such round was measured" in pace_text(guess)
    assert found is not None and "about 2.0 s: by the median of 3 rounds of run small" in pace_text(found)


def test_a_folder_that_is_no_run_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text("{")
    recorded(tmp_path, DEMO, 1.0, 1.0, 1.0)
    (tmp_path / "small" / "rounds.sqlite").write_bytes(b"no database")
    assert [one.seconds for one in comparable(tmp_path, DEMO)] == [()]


def test_a_run_whose_rounds_are_damaged_has_none(tmp_path: Path) -> None:
    recorded(tmp_path, DEMO, 1.0, 1.0, 1.0)
    with closing(sqlite3.connect(tmp_path / "small" / "rounds.sqlite")) as connection, connection:
        connection.execute("UPDATE rounds SET refused = '{'")
    assert [one.seconds for one in comparable(tmp_path, DEMO)] == [()]
