"""A collapse reaches those who look: the run's own report, a private run by its guard alone, `server status`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common import synthetic
from common.collapse import LETTERS
from common.config import RunConfig
from common.guard import PUBLIC
from common.messages.kinds import Evaluation, Reply, Task
from server.reports.status import RunStatus, Status
from server.reports.tables import show_status
from server.rounds.loop import Progress, run_rounds
from server.rounds.standing import Standing, StandingFile, read_standing
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.driver import prepare_once
from simulation.folders import open_sites
from tests.small import PRIVACY, small_config


class Told(LocalExchange):
    """Sites of this process, which all answer the public questions so."""

    counts: dict[str, int]

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Answer as told; held-out questions are not asked."""
        if task.public:
            yield from (Evaluation(site.name, task.round, {PUBLIC: self.counts}) for site in self._sites)


def progress(config: RunConfig, folder: Path, counts: dict[str, int]) -> list[Progress]:
    """Run a federation whose sites answer the public questions so."""
    prepare_once(config, synthetic.codebook(), folder, Path())
    told: list[Progress] = []
    with RunStore.opened(folder, config) as store:
        exchange = Told(open_sites(folder), evaluate=False)
        exchange.counts = counts
        run_rounds(config, exchange, store, told.append)
        assert not [name for row in store.rounds() for name in row.counts or {} if name in LETTERS]
    return told


def test_a_private_run_tells_it_by_the_public_questions_and_by_nothing_else(small_model: Path, tmp_path: Path) -> None:
    counts = {"asked": 64, "boxed": 60, "right": 12, "other": 2}
    federation = {"population": 30, "sampling_rate": 0.3, "rounds": 2}
    private = {"federation": federation, "privacy": PRIVACY | {"answer_every": 0}}
    config = small_config(small_model, **private, guard={"every": 1})
    told = progress(config, tmp_path / "guarded", counts)
    assert [each.collapse for each in told] == [("to the public questions one letter is 97% of the boxed answers",)] * 2
    good = {**counts, "other": 40}
    assert [each.collapse for each in progress(config, tmp_path / "good", good)] == [()] * 2
    unguarded = small_config(small_model, **private)
    assert [each.collapse for each in progress(unguarded, tmp_path / "unguarded", counts)] == [()] * 2


def test_status_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with StandingFile(tmp_path / "standing.json", 9) as standing:
        standing.tell(state="running", round=4, collapse=("B is 91% of the boxed answers", "more"))
        read = read_standing(tmp_path / "standing.json")
    assert isinstance(read, Standing) and read.since <= datetime.now(UTC)
    status = Status(
        federation="f",
        folder="kits",
        address="x:1",
        coordinator=None,
        services={},
        warnings=(),
        roster_version=None,
        roster_sha256=None,
        sites=(),
        runs=(RunStatus(name="small", served=True, run_id=1, restarts=0, standing=read),),
    )
    show_status(status)
    assert "COLLAPSED: B is 91% of the boxed answers; more" in capsys.readouterr().out
    assert "B is 91% of the boxed answers" in str(status.document())
