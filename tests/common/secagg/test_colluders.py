"""How many sites it takes to open one site's sum with the coordinator: 2 t - n, who sign two sets, and no fewer."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import FedReasonError
from common.secagg.messages import Consents, Revealed, Survivors
from common.secagg.statement import Statement
from common.secagg.terms import most_colluders, threshold
from tests.common.secagg.cohort import Cohort


def opened(count: int, colluders: int, shown: int) -> bool:
    """Tell `shown` honest sites that all survived, and the others that the last one was lost; colluders sign both.

    Returns whether enough shares come together of the seed and of the key of that last site, which is honest.
    """
    cohort = Cohort(count).until(3)
    names = list(cohort.keys)
    victim, bad, honest = names[-1], names[:colluders], names[colluders:]
    whole = dict(cohort.server._inputs)
    sets = [whole, {name: one for name, one in whole.items() if name != victim}]
    told = [honest[len(honest) - shown :], honest[: len(honest) - shown]]
    shares = {"seed": colluders, "key": colluders}
    for kind, inputs, sites in zip(shares, sets, told, strict=True):
        signed: dict[str, str] = {}
        statement: Statement | None = None
        for name in sites:
            consent: Any = cohort.sites[name].take(Survivors(cohort.session.id, inputs))
            signed[name], statement = consent.signature, cohort.sites[name]._statement
        for name in bad if statement is not None else ():
            signed[name] = statement.signed(cohort.keys[name])  # type: ignore[union-attr]
        for name in sites:
            try:
                revealed = cohort.sites[name].take(Consents(cohort.session.id, signed))
            except FedReasonError:
                continue
            assert isinstance(revealed, Revealed)
            shares[kind] += bool(revealed.shares[victim])
    return min(shares.values()) >= threshold(count)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 9, 10])
def test_as_many_colluders_as_a_run_may_allow_for_open_no_single_sum_however_the_others_are_split(count: int) -> None:
    colluders = most_colluders(count)
    assert not any(opened(count, colluders, shown) for shown in range(1, count - colluders + 1))


@pytest.mark.parametrize("count", [4, 5, 6, 9, 10])
def test_one_colluder_more_opens_one_as_the_page_on_privacy_says(count: int) -> None:
    colluders = most_colluders(count) + 1
    assert any(opened(count, colluders, shown) for shown in range(1, count - colluders + 1))
