"""What was spent, by run, and what a run would cost: as the ledger and the accountant say, and read at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.privacy.chain import LEDGER, MARK, ledger_folder
from client.privacy.ledger import Ledger
from client.privacy.spending import ledger_json, ledger_lines, plan, planned
from common.accounting import Mechanism, epsilon, prv_epsilon, rdp
from common.config import RunConfig
from common.errors import Code
from tests.privacy_checks.ledger import CAP, filled, flipped, path_of, put_back, refused, release, site

DELTA = 1e-5


@pytest.fixture
def amc() -> Iterator[Path]:
    with site() as folder:
        yield folder


def run(**federation: object) -> RunConfig:
    """Return a run of 30 rounds over everybody at noise multiplier 4, whose counts stay."""
    return RunConfig.model_validate(
        {
            "name": "trial",
            "federation": {"name": "f", "rounds": 30, "sites": 3, "population": 3000, "sampling_rate": 1.0}
            | federation,
            "optimizer": {"learning_rate": 1e-3},
            "privacy": {"clip_norm": 1.0, "noise_multiplier": 4.0, "delta": DELTA},
        }
    )


def noised(config: RunConfig, every: int, noise_multiplier: float = 8.0) -> RunConfig:
    """Let counts leave too, every so many rounds."""
    assert config.privacy is not None
    return config.model_copy(
        update={
            "privacy": config.privacy.model_copy(update={"metrics_noise_multiplier": noise_multiplier}),
            "evaluation": config.evaluation.model_copy(update={"every": every}),
        }
    )


def cost(*mechanisms: Mechanism) -> float:
    return epsilon(sum(rdp(**mechanism._asdict()) for mechanism in mechanisms), DELTA)


def line(lines: list[str], name: str) -> str:
    return next(text for text in lines if text.startswith(f"{name} "))


def test_what_was_spent_is_told_by_run_and_adds_up(amc: Path) -> None:
    ledger = filled(amc, 3, run="one")
    filled(amc, 2, run="two")
    again = Ledger.opened(amc).charge(release(2, run="one", attempt=1), cap=CAP)
    figures = ledger_json(amc, cap=CAP)
    json.dumps(figures, allow_nan=False)
    assert figures["epsilon"] == again.epsilon
    assert (figures["delta"], figures["cap"], figures["left"]) == (DELTA, CAP, CAP - again.epsilon)
    assert figures["head"] == again.head._asdict()
    one, two = figures["runs"]
    assert (one["run"], one["rounds"], one["releases"], one["retries"]) == ("one", 3, 4, 1)
    assert (two["run"], two["rounds"], two["releases"], two["retries"]) == ("two", 2, 2, 0)
    assert one["epsilon"] + two["epsilon"] == pytest.approx(again.epsilon)
    assert [entry["epsilon"] for entry in figures["entries"]] == [entry.epsilon for entry in ledger.entries()]
    assert "rdp" not in figures["entries"][0]
    lines = ledger_lines(amc, cap=CAP)
    assert line(lines, "spent") == f"spent      epsilon {again.epsilon:.4g} at delta 1e-05, in 6 releases"
    assert line(lines, "left") == f"left       epsilon {CAP - again.epsilon:.4g} of 8"
    assert "one: " in line(lines, "run") and "3 rounds in 4 releases, 1 of them retries" in line(lines, "run")
    assert line(lines, "head").endswith(again.head.sha256)


def test_an_empty_ledger_has_spent_nothing_and_is_not_made_by_reading(amc: Path) -> None:
    assert ledger_lines(amc, cap=CAP) == ["spent      nothing was released", "left       epsilon 8 of 8"]
    assert ledger_json(amc, verify=True)["epsilon"] == 0.0
    assert not ledger_folder(amc).exists()


def test_more_than_a_lowered_cap_leaves_nothing_and_not_less(amc: Path) -> None:
    filled(amc, 3)
    assert ledger_json(amc, cap=0.5)["left"] == 0.0


def test_at_another_delta_what_was_spent_is_what_the_next_release_is_charged_on(amc: Path) -> None:
    """An officer who lowers delta is told what is left by it at once, and a plan says the same."""
    filled(amc, 30)
    stricter = 1e-6
    spent = epsilon(30 * rdp(noise_multiplier=4.0, sampling_rate=1.0, steps=1), stricter)
    figures = ledger_json(amc, cap=CAP, delta=stricter)
    assert figures["epsilon"] == pytest.approx(spent, rel=1e-3) and figures["epsilon"] > ledger_json(amc)["epsilon"]
    assert (figures["delta"], figures["left"]) == (stricter, CAP - figures["epsilon"])
    assert line(ledger_lines(amc, delta=stricter), "spent").endswith("at delta 1e-06, in 30 releases")
    found = planned(amc, run(), cap=CAP, delta=stricter)
    assert found is not None and found.spent.epsilon == pytest.approx(figures["epsilon"])
    assert ledger_json(amc, delta=DELTA)["epsilon"] == ledger_json(amc)["epsilon"]
    by_prv = ledger_json(amc, delta=stricter, verify=True)["prv"]
    assert by_prv == pytest.approx(prv_epsilon([Mechanism(4.0, 1.0, 30)], stricter), abs=1e-6)


def test_verifying_checks_every_signature_and_reports_prv(amc: Path) -> None:
    filled(amc, 5)
    figures = ledger_json(amc, verify=True)
    assert figures["verified"]
    assert figures["prv"] == pytest.approx(prv_epsilon([Mechanism(4.0, 1.0, 5)], DELTA), abs=1e-6)
    assert figures["prv"] < figures["epsilon"]
    lines = ledger_lines(amc, verify=True)
    assert "up to line 5" in line(lines, "verified")
    assert f"{figures['prv']:.4g}" in line(lines, "PRV")


def test_a_damaged_or_older_ledger_is_not_shown(amc: Path) -> None:
    filled(amc, 1)
    older = path_of(amc).read_bytes()
    filled(amc, 2)
    content, mark = path_of(amc).read_bytes(), (ledger_folder(amc) / MARK).read_bytes()
    put_back(amc, flipped(content, 100, 0), mark)
    assert LEDGER in refused(lambda: ledger_lines(amc), Code.LEDGER_DAMAGED)
    put_back(amc, older, mark)
    refused(lambda: ledger_json(amc), Code.LEDGER_ROLLED_BACK)


def test_a_ledger_in_use_is_read_without_touching_it(amc: Path) -> None:
    ledger = filled(amc, 2)
    torn = path_of(amc).read_bytes() + b'{"attempt":0,'
    path_of(amc).write_bytes(torn)
    assert ledger_json(amc)["epsilon"] == ledger.epsilon
    assert path_of(amc).read_bytes() == torn


def test_a_planned_run_costs_alone_and_after_what_was_spent_what_it_will(amc: Path) -> None:
    alone = plan(amc, run(), cap=CAP, delta=DELTA)
    assert line(alone, "run") == "run        trial: 30 rounds of fedsgd, delta 1e-05"
    assert line(alone, "spent") == "spent      epsilon 0 (PRV 0)"
    assert line(alone, "alone") == "alone      epsilon 6.813 (PRV 6.336)"
    assert line(alone, "together") == "together   epsilon 6.813 (PRV 6.336), the cap is 8"
    assert not any(text.startswith("stops") for text in alone)
    spent = filled(amc, 5).epsilon
    after = plan(amc, run(), cap=CAP, delta=DELTA)
    both = Mechanism(4.0, 1.0, 35)
    assert f"epsilon {spent:.4g} (PRV" in line(after, "spent")
    assert f"epsilon {cost(both):.4g} (PRV {prv_epsilon([both], DELTA):.4g})" in line(after, "together")


def test_where_a_planned_run_stops_is_where_the_ledger_stops_it(amc: Path) -> None:
    filled(amc, 10, run="earlier")
    stops = line(plan(amc, run(), cap=6.0, delta=DELTA), "stops")
    ledger, rounds = Ledger.opened(amc), 0
    try:
        for number in range(1, 31):
            ledger.charge(release(number), cap=6.0)
            rounds = number
    except Exception as error:
        assert getattr(error, "code", None) is Code.BUDGET_SPENT
    assert 0 < rounds < 30
    assert stops == f"stops      after {rounds} rounds of 30: the next release would pass the cap"
    assert "before its first round" in line(plan(amc, run(), cap=1.0, delta=DELTA), "stops")


@pytest.mark.parametrize("every, evaluations", [(0, 2), (10, 4), (7, 6), (30, 2)])
def test_noised_counts_are_planned_as_often_as_they_will_be_asked_for(amc: Path, every: int, evaluations: int) -> None:
    """Before the first round, every so many, and after the last."""
    expected = cost(Mechanism(4.0, 1.0, 30), Mechanism(8.0, 1.0, evaluations))
    assert f"alone      epsilon {expected:.4g} " in line(plan(amc, noised(run(), every), cap=CAP, delta=DELTA), "alone")


def test_noised_counts_are_planned_at_the_noise_they_get_and_only_where_the_policy_lets_them_leave(amc: Path) -> None:
    """The three totals are whole numbers that a patient changes by at most 2 in length: 1.2 becomes 3 / 2."""
    config = noised(run(), 0, 1.2)
    for counts, expected in (
        (True, cost(Mechanism(4.0, 1.0, 30), Mechanism(1.5, 1.0, 2))),
        (False, cost(Mechanism(4.0, 1.0, 30))),
    ):
        lines = plan(amc, config, cap=CAP, delta=DELTA, counts=counts)
        assert f"alone      epsilon {expected:.4g} " in line(lines, "alone")


def test_local_steps_and_sampling_are_planned_too(amc: Path) -> None:
    config = run(protocol="fedavg", local_steps=3, sampling_rate=0.1)
    expected = cost(Mechanism(4.0, 0.1, 90))
    assert f"alone      epsilon {expected:.4g} " in line(plan(amc, config, cap=CAP, delta=DELTA), "alone")


def test_a_run_without_privacy_is_said_to_be_none(amc: Path) -> None:
    config = run().model_copy(update={"privacy": None})
    assert plan(amc, config, cap=CAP, delta=DELTA) == [
        "run        trial has no [privacy]: nothing is charged, and nothing is private.",
        "sums       plain: the coordinator sees the sum of each site",
        "noise      none, as this run: nothing is charged, and no epsilon holds",
    ]


def test_a_plan_says_what_every_way_to_noise_costs_and_the_runs_own_is_what_it_costs_alone(amc: Path) -> None:
    config = run(sites=10, quorum=7, aggregation="secure")
    shared = {"noise": "distributed", "colluders": 3, "dropouts": 3}
    config = config.model_copy(update={"privacy": config.privacy.model_copy(update=shared)})  # type: ignore[union-attr]
    lines = plan(amc, config, cap=CAP, delta=DELTA)
    assert "alone      epsilon 6.813 " in line(lines, "alone")
    own, local, none = [text for text in lines if text.startswith("noise ")]
    assert "distributed, as this run: epsilon 6.813 for all gradients; the sum of 10 sites holds 1.58 sigma C" in own
    assert f"where 4 sites conspire with the coordinator, epsilon {cost(Mechanism(2.0, 1.0, 30)):.4g}" in own
    assert "local: epsilon 6.813 for all gradients; the sum of 10 sites holds 3.16 sigma C" in local
    assert "of 10 sites, 7 open it" in line(lines, "sums") and "none: " in none


def test_planning_writes_nothing(amc: Path) -> None:
    plan(amc, run(), cap=CAP, delta=DELTA)
    assert not ledger_folder(amc).exists()
