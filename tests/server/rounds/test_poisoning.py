"""What a site can add to a sum: an honest one its patients' norms at most; of another the range, if it is seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.training import gradients
from client.training.requests import contribute
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import adapter_sha256
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.guard import PUBLIC
from common.messages.kinds import Contribution, Evaluation, Reply, Task
from server.rounds.loop import RoundSum, largest_part, run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.five_sites import config_of
from tests.small import PRIVACY, small_config

GUARD = {"every": 1, "questions": 16}
GOOD = {"asked": 16, "boxed": 16, "right": 8, "other": 8}


@pytest.mark.parametrize("huge", [1e6, 1e-6, float("inf")])
def test_an_honest_site_sends_no_more_than_its_patients_norms(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huge: float
) -> None:
    """Whatever the coordinator's adapter does to a gradient; one that is no number stops the round at that site."""
    config = small_config(small_model, lattice={"bits": 24, "clip_norm": 0.01}, federation={"sampling_rate": 1.0})
    site = Workplace(next(iter(prepare(config, synthetic.codebook(), tmp_path).values())))
    size, patients = site.engine(config).layout.size, len(site.training(config))
    honest = gradients.gradients

    def exploding(*arguments: object) -> Iterator[object]:
        for gradient, counts in honest(*arguments):  # type: ignore[arg-type]
            yield gradient * np.float32(huge) + np.float32(huge), counts

    monkeypatch.setattr(gradients, "gradients", exploding)
    task = Task(config, 1, 0, np.zeros(size, dtype=np.float32))
    if math.isinf(huge):
        with pytest.raises(FedReasonError) as refusal:
            contribute(site, task)
        assert refusal.value.code is Code.LATTICE_RANGE
        return
    total = contribute(site, task).total
    norm = math.isqrt(sum(int(value) ** 2 for value in total))
    assert 0 < norm <= patients * config.clip_units
    assert np.abs(total).max() <= largest_part(config)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("sums", [{"lattice": {"bits": 24, "clip_norm": 0.5}}, {"privacy": PRIVACY}, {}])
def test_a_part_out_of_the_run_s_range_is_left_out_where_it_is_seen(
    small_model: Path, sums: dict[str, object], sign: int
) -> None:
    config = small_config(small_model, **sums)
    most = largest_part(config)
    assert most == 2**62 if not sums else most < 2**40
    task = Task(config, 1, 0, np.zeros(2, dtype=np.float32))
    gathered = RoundSum(np.zeros(2, dtype=np.int64), most)
    for site, value in (("inside", most), ("outside", most + 1), ("least", 2**63 - 1)):
        gathered.take(Contribution(site, 1, 0, np.array([0, sign * value], dtype=np.int64), None), task)
    assert gathered.sites == ["inside"]
    assert gathered.refused == {"outside": Code.LATTICE_RANGE, "least": Code.LATTICE_RANGE}


class Told(LocalExchange):
    """Sites of this process, whose answers to public questions are told."""

    def __init__(self, sites: list[Workplace], counts: Callable[[Task], dict[str, int]]) -> None:
        super().__init__(sites, evaluate=False)
        self._counts = counts

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Answer as told."""
        if task.public:
            yield from (Evaluation(site.name, task.round, {PUBLIC: self._counts(task)}) for site in self._sites)


def test_a_secure_round_that_was_taken_back_is_masked_anew_as_the_next_attempt(
    small_model: Path, tmp_path: Path
) -> None:
    """No site masks a sum twice, so the round's coins are others: those of a plain run asked for that attempt."""
    config = RunConfig.model_validate(config_of(small_model).model_dump() | {"guard": GUARD})
    sites = [Workplace(site) for site in prepare(config, synthetic.codebook(), tmp_path / "sites").values()]
    with RunStore.opened(tmp_path / "run", config) as store:
        with pytest.raises(FedReasonError) as stop:
            fell = {**GOOD, "right": 2}
            run_rounds(config, Told(sites, lambda task: fell if task.round == 2 else GOOD), store)
        assert stop.value.code is Code.GUARD_FELL and "back at round 1" in stop.value.found
        at = store.load()
        assert at is not None and (at.round, at.redone) == (1, {2: 1})
        first = adapter_sha256(at.adapter)
        reached = adapter_sha256(run_rounds(config, Told(sites, lambda task: GOOD), store))
        assert [row.round for row in store.rounds()] == [1, 2] and store.rounds()[0].adapter_sha256 == first
    plain = config_of(small_model, "plain").model_copy(update={"name": "plain"})

    class Later(LocalExchange):
        """Asks for the second round's next attempt."""

        def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
            later = replace(task, attempt=int(task.round == 2))
            return (replace(reply, attempt=0) for reply in super().contributions(later, enough))  # type: ignore[misc]

    with RunStore.opened(tmp_path / "plain", plain) as store:
        assert adapter_sha256(run_rounds(plain, Later(sites, evaluate=False), store)) == reached
