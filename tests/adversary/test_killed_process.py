"""A site's real processes, one of them killed over a private task: that attempt is silent, and the next one charged."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.node.computing import Stopped
from client.node.hours import pause, resume
from client.node.resident import Died
from client.training.releases import mechanism_of_gradients
from client.training.states import Attempt, Attempts, Silent, State
from common import synthetic
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution
from simulation.prepare import prepare
from tests.adversary.running import Site, once_charged
from tests.small import small_config
from tests.whole_site import CLIP

pytestmark = pytest.mark.federation


@pytest.fixture
def site(small_model: Path, tmp_path: Path) -> Iterator[Site]:
    config = small_config(
        small_model,
        federation={"sites": 1, "quorum": 1, "sampling_rate": 1.0, "rounds": 9, "population": 2000},
        simulation={"hospitals": ["north"], "patients": 1500},
        privacy=CLIP,
    )
    (folder,) = prepare(config, synthetic.codebook(), tmp_path).values()
    from client.training.workplace import Workplace

    running = Site(folder, config, Workplace(folder).engine(config).layout.size)
    yield running
    running.computing.stop()


def test_a_process_that_is_killed_after_the_charge_is_silence_until_a_person_looks(site: Site) -> None:
    def kill() -> None:
        pid = site.computing._resident.pid
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)

    for number in (1, 2):
        once_charged(site, kill)
        for _ in range(2):
            with pytest.raises(Silent):
                site.ask(number)
    assert site.charged == [(1, 0), (2, 0)] and site.deaths == 2
    with pytest.raises(Silent):
        site.ask(2)
    reply = site.ask(3)
    assert reply.code == Code.SITE_SILENCED and site.charged == [(1, 0), (2, 0)]
    Attempts(site.folder).go_on()
    federation = site.config.federation.model_copy(update={"sampling_rate": 0.005})
    site.config = site.config.model_copy(update={"federation": federation})
    first = site.ask(3)
    assert isinstance(first, Contribution) and site.charged[-1] == (3, 0)
    assert np.array_equal(site.ask(3).total, first.total), "the answer that is kept, and no other"
    assert len(site.charged) == 3


@pytest.mark.parametrize("how", ["paused", "stopped"])
def test_a_person_who_ends_the_work_after_the_charge_is_silence_too_and_not_held_against_the_run(
    site: Site, how: str
) -> None:
    if how == "paused":
        once_charged(site, lambda: pause(site.folder, "trial"))
        with pytest.raises(Silent):
            site.ask(1)
        with pytest.raises(FedReasonError, match="E812"):
            site.ask(2)
        resume(site.folder)
    else:
        once_charged(site, lambda: setattr(site, "stopping", True))
        with pytest.raises(Stopped) as stopped:
            site.ask(1)
        assert stopped.value.silent
        site.stopping = False
    assert site.charged == [(1, 0)]
    with pytest.raises(Silent):
        site.ask(1)
    assert site.deaths == 0


def hidden(site: Site, then: Any) -> None:
    """Let no answer of round 1 be taken, and do something as soon as it is there to be."""
    attempt = Attempt(site.config.name, 1, 0, mechanism_of_gradients(site.config))

    def take(seconds: float) -> None:
        if site.computing._attempts.state(attempt) is State.SENT:
            then()
        time.sleep(0.01)

    site.computing._resident.take = take  # type: ignore[assignment,method-assign]


@pytest.mark.parametrize("how", ["paused", "stopped", "killed"])
def test_an_answer_that_was_computed_and_not_taken_yet_is_silence_when_somebody_ends_the_work(
    site: Site, how: str
) -> None:
    """A refusal at that moment would tell, uncharged, that the work had ended: how long it takes depends on records."""
    federation = site.config.federation.model_copy(update={"sampling_rate": 0.005})
    site.config = site.config.model_copy(update={"federation": federation})

    def kill() -> None:
        site.computing._resident.stop()
        raise Died

    hidden(site, {"paused": lambda: pause(site.folder, "trial"), "stopped": site.stop, "killed": kill}[how])
    with pytest.raises(Stopped if how == "stopped" else Silent) as ended:
        site.ask(1)
    assert how != "stopped" or ended.value.silent  # type: ignore[union-attr]
    assert site.charged == [(1, 0)]
