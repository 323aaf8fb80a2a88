"""A coordinator with sites of its own in the cohort: as many as are tolerated find out nobody's sum, one more does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import FedReasonError
from common.secagg.messages import Consents, Revealed, Survivors
from common.secagg.statement import Statement
from common.secagg.terms import most_colluders, threshold
from tests.common.secagg.cohort import Cohort

VICTIM = "site-000"


def shares_of(count: int, colluders: int, told_lost: int) -> tuple[int, int]:
    """Show some honest sites a survivor set with the victim, others one without; colluders sign whatever is wanted.

    Returns how many shares of the victim's two secrets the coordinator then has: of its seed, and of its key.
    """
    cohort = Cohort(count).until(3)
    names = list(cohort.keys)
    honest, own = names[: count - colluders], names[count - colluders :]
    statement: Statement = cohort.server._statement
    rest = {site: digest for site, digest in statement.inputs.items() if site != VICTIM}
    sets = {True: statement, False: replace(statement, inputs=rest)}
    lost = honest[len(honest) - told_lost :]
    seen = {name: name not in lost for name in honest}
    signatures: dict[bool, dict[str, str]] = {
        whole: {name: shown.signed(cohort.keys[name]) for name in own} for whole, shown in sets.items()
    }
    for name, whole in seen.items():
        answer = cohort.sites[name].take(Survivors(cohort.session.id, dict(sets[whole].inputs)))
        signatures[whole][name] = answer.signature  # type: ignore[union-attr]
    found = {True: len(own), False: len(own)}
    for name, whole in seen.items():
        try:
            answer = cohort.sites[name].take(Consents(cohort.session.id, signatures[whole]))
        except FedReasonError:
            continue
        assert isinstance(answer, Revealed) and VICTIM in answer.shares
        found[whole] += 1
    return found[True], found[False]


@pytest.mark.parametrize("count", [5, 9, 10])
def test_colluders_that_are_tolerated_get_no_site_s_seed_and_key_and_one_more_does(count: int) -> None:
    """With both secrets the masks come off one site's sum. The bound of privacy.colluders is the true one."""
    enough, most = threshold(count), most_colluders(count)
    for colluders, unmasked in ((most, False), (most + 1, True)):
        every = [shares_of(count, colluders, lost) for lost in range(count - colluders)]
        assert any(min(both) >= enough for both in every) is unmasked
