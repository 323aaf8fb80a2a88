"""The guard's rule: fewer than half of the sites move no measure, and a fall is a fall below the best so far."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import RunConfig
from common.guard import TOLERANCE, agreed, fallen, raised
from tests.paths import ROOT
from tests.small import small_config

SHARE = st.floats(0, 1)


@given(st.lists(SHARE, min_size=1, max_size=7), st.data())
def test_fewer_than_half_of_the_sites_cannot_move_a_measure_out_of_the_range_of_the_others(
    honest: list[float], data: st.DataObject
) -> None:
    lies = data.draw(st.lists(SHARE, max_size=len(honest) - 1))
    measures = {f"h{i}": {"boxed": x} for i, x in enumerate(honest)} | {
        f"l{i}": {"boxed": x} for i, x in enumerate(lies)
    }
    middle, apart = agreed(measures)
    assert min(honest) <= middle["boxed"] <= max(honest)
    assert apart == {site for site, of in measures.items() if abs(of["boxed"] - middle["boxed"]) > TOLERANCE}


def test_sites_that_agree_but_for_rounding_are_not_named_and_one_that_lies_is() -> None:
    measures = {
        "a": {"boxed": 0.70, "varied": 0.5},
        "b": {"boxed": 0.72, "varied": 0.5},
        "c": {"boxed": 0.71, "varied": 0.9},
    }
    assert agreed(measures) == ({"boxed": 0.71, "varied": 0.5}, {"c"})


def test_a_measure_falls_where_it_lies_more_than_the_margin_below_its_best() -> None:
    best = {"boxed": 0.9, "varied": 0.6}
    assert fallen({"boxed": 0.66, "varied": 0.36}, best, 0.25) == []
    assert fallen({"boxed": 0.64, "varied": 0.36}, best, 0.25) == ["boxed"]
    assert fallen({"accuracy": 0.0}, best, 0.25) == []
    assert raised({"boxed": 0.95, "accuracy": 0.4}, best) == {"boxed": 0.95, "varied": 0.6, "accuracy": 0.4}


def test_a_run_without_a_guard_has_the_hash_that_it_had_before_there_was_one() -> None:
    config = small_config(ROOT)
    assert '"guard"' not in config.model_dump_json()
    guarded = RunConfig.model_validate(config.model_dump() | {"guard": {}})
    assert guarded.guard is not None and guarded.sha256 != config.sha256


def test_a_guard_that_waits_for_more_sites_than_there_need_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"guard\.answers"):
        RunConfig.model_validate(small_config(ROOT).model_dump() | {"guard": {"answers": 99}})
