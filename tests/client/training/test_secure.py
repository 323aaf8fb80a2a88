"""A site's part in a secure sum: charged before it is computed, answered once, and never in the open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.privacy.ledger import Ledger
from client.training import secure
from client.training.requests import contribute
from client.training.secure import JOURNAL, take_part
from client.training.states import Silent, read_attempts
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Step, Task
from common.secagg.messages import parts_of
from common.secagg.terms import share_sigma
from simulation.prepare import prepare
from tests.secure_session import Coordinator, told
from tests.small import PRIVACY, small_config

HOSPITALS = ("coast", "east", "north", "south", "west")
SHARED = {**PRIVACY, "noise": "distributed", "colluders": 1, "dropouts": 1}


def config_of(model: Path, privacy: dict[str, object] | None = None) -> RunConfig:
    federation = {"sites": 5, "quorum": 4, "population": 60, "sampling_rate": 0.3, "aggregation": "secure"}
    more: dict[str, Any] = {"lattice": {"bits": 22, "clip_norm": 0.5}} if privacy is None else {"privacy": privacy}
    simulation = {"hospitals": list(HOSPITALS), "patients": 8}
    return small_config(model, federation=federation, simulation=simulation, **more)


def refused(code: Code, place: Workplace, task: Task) -> None:
    with pytest.raises(FedReasonError) as caught:
        take_part(place, task)
    assert caught.value.code is code, caught.value


@pytest.fixture
def folders(small_model: Path, tmp_path: Path) -> dict[str, Path]:
    return prepare(config_of(small_model), synthetic.codebook(), tmp_path)


def test_a_secure_run_gives_no_site_s_part_in_the_open_and_a_plain_one_takes_no_step(
    small_model: Path, folders: dict[str, Path]
) -> None:
    here = Coordinator(config_of(small_model), folders)
    tasks, _ = here.exchange()
    north = here.places["north"]
    with pytest.raises(FedReasonError) as caught:
        contribute(north, replace(tasks["north"], step=None))
    assert caught.value.code is Code.POLICY_REFUSED
    plain = here.config.model_copy(
        update={"federation": here.config.federation.model_copy(update={"aggregation": "plain"})}
    )
    refused(Code.RUN_REPLY, north, replace(tasks["north"], config=plain))
    for step in (None, {}, {"kind": "opening"}, {"kind": "opening", "message": {"session": "00"}}):
        refused(Code.RUN_REPLY, north, replace(tasks["north"], step=step))
    refused(Code.RUN_REPLY, north, replace(tasks["north"], step=parts_of(told(_advertised(here, folders))).head))


@pytest.mark.parametrize("shown", ["another adapter", "another temperature", "another privacy"])
def test_a_site_that_is_shown_something_else_than_the_others_is_in_no_session_with_them(
    small_model: Path, folders: dict[str, Path], shown: str
) -> None:
    here = Coordinator(config_of(small_model, PRIVACY), folders)
    task = here.task(here.server.proceed()["north"])
    assert task.adapter is not None and here.config.privacy is not None
    other = {
        "another adapter": replace(task, adapter=task.adapter + np.float32(1e-3)),
        "another temperature": replace(task, config=_with(here.config, "grpo", temperature=0.5)),
        "another privacy": replace(task, config=_with(here.config, "privacy", noise_multiplier=3.0)),
    }[shown]
    refused(Code.SECAGG_TURN, here.places["north"], other)
    assert not (folders["north"] / "state" / JOURNAL).exists()
    take_part(here.places["north"], task)


def _with(config: RunConfig, section: str, **changes: object) -> RunConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=changes)})


def _advertised(here: Coordinator, folders: dict[str, Path]) -> Step:
    other = Coordinator(here.config, folders, attempt=1)
    return other.exchange()[1]["east"]


def test_no_message_is_answered_twice_nor_a_session_begun_twice(small_model: Path, folders: dict[str, Path]) -> None:
    here = Coordinator(config_of(small_model), folders)
    opening = here.exchange()[0]["north"]
    directory = here.exchange()[0]["north"]
    north = here.places["north"]
    refused(Code.SECAGG_TURN, north, directory)
    restarted = Workplace(folders["north"])
    refused(Code.SECAGG_TURN, restarted, directory)
    refused(Code.SECAGG_REPLAYED, restarted, opening)
    (folders["north"] / "state" / JOURNAL).write_bytes(b"torn")
    refused(Code.SECAGG_REPLAYED, restarted, replace(opening, attempt=1, step=_opening_of(here, folders)))


def _opening_of(here: Coordinator, folders: dict[str, Path]) -> dict[str, Any]:
    other = Coordinator(here.config, folders, attempt=1)
    return parts_of(other.server.proceed()["north"]).head


@pytest.mark.parametrize("privacy", [PRIVACY, SHARED], ids=["local", "distributed"])
def test_a_private_part_is_charged_before_it_is_computed_and_not_before_the_third_message(
    small_model: Path, folders: dict[str, Path], privacy: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(small_model, privacy)
    here = Coordinator(config, folders)
    here.exchange()
    here.exchange()
    north = here.places["north"]
    assert north.ledger.entries() == []
    charged: list[int] = []
    before = secure.site_sum

    def computed(*arguments: Any) -> Any:
        charged.append(len(Ledger.opened(folders["north"]).entries()))
        return before(*arguments)

    monkeypatch.setattr(secure, "site_sum", computed)
    _, answers = here.exchange()
    assert set(charged) >= {1}
    (entry,) = north.ledger.entries()
    assert entry.release.mechanism == ("fedsgd-shared" if privacy is SHARED else "fedsgd-local")
    assert entry.release.sigma_units == config.privacy.sigma_units  # type: ignore[union-attr]
    assert answers["north"].ledgers["north"].sequence == 1


def test_a_private_site_that_died_over_its_part_is_silent_for_the_rest_of_the_session(
    small_model: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Coordinator(config_of(small_model, PRIVACY), folders)
    here.exchange()
    here.exchange()
    inbox = here.task(here.server.proceed()["north"])

    def killed(*_: Any) -> Any:
        raise SystemExit

    monkeypatch.setattr(secure, "site_sum", killed)
    with pytest.raises(SystemExit):
        take_part(here.places["north"], inbox)
    restarted = Workplace(folders["north"])
    for _ in range(2):
        with pytest.raises(Silent):
            take_part(restarted, inbox)
    assert len(restarted.ledger.entries()) == 1


def test_a_private_site_that_died_once_its_sum_was_computed_sends_no_refusal_in_its_place(
    small_model: Path, folders: dict[str, Path]
) -> None:
    here = Coordinator(config_of(small_model, PRIVACY), folders)
    here.exchange()
    here.exchange()
    tasks, _ = here.exchange()
    survivors = here.task(here.server.proceed()["north"])
    restarted = Workplace(folders["north"])
    with pytest.raises(Silent):
        take_part(restarted, tasks["north"])
    refused(Code.SECAGG_TURN, restarted, survivors)


def test_a_private_sum_that_was_computed_and_cannot_be_masked_is_silence_and_no_refusal(
    small_model: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the mask is written down, or the sum is one that was masked before."""
    here = Coordinator(config_of(small_model, PRIVACY), folders)
    here.exchange()
    here.exchange()
    inbox = here.task(here.server.proceed()["north"])

    def full(*_: Any) -> None:
        raise FedReasonError(Code.SECAGG_REPLAYED, "It was masked before.", "Ask anew.")

    monkeypatch.setattr("common.secagg.journal.Journal.mask", full)
    with pytest.raises(Silent):
        take_part(here.places["north"], inbox)
    refused(Code.SECAGG_TURN, here.places["north"], inbox)
    assert len(here.places["north"].ledger.entries()) == 1
    assert read_attempts(folders["north"]).deaths == {here.config.name: 1}


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no patient take part: the sum is noise alone."""
    monkeypatch.setattr("client.privacy.mechanism.poisson_sample", lambda patients, rate: [])


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("lost", [None, "west"])
def test_the_sum_holds_the_noise_of_every_share(small_model: Path, folders: dict[str, Path], lost: str | None) -> None:
    """And, with one lost and one that tells its share, still what a trusted server would have added."""
    config = config_of(small_model, SHARED)
    privacy = config.privacy
    assert privacy is not None
    here = Coordinator(config, folders)
    here.exchange()
    here.exchange()
    here.exchange(lost)
    here.exchange()
    here.exchange()
    total = here.server.total()
    share = share_sigma(privacy.sigma_units, sites=5, colluders=1, dropouts=1)
    survivors = 5 if lost is None else 4
    variance = float(np.var(total.astype(np.float64)))
    assert variance == pytest.approx(survivors * share**2, rel=10 * (2 / total.size) ** 0.5)
    assert (survivors - 1) * share**2 >= privacy.sigma_units**2


@pytest.mark.parametrize(("exchanges", "needs"), [(0, True), (1, False), (2, True), (3, False), (4, False)])
def test_a_registry_that_cannot_be_read_keeps_a_site_from_its_sum_and_from_no_message_after_it(
    small_model: Path, folders: dict[str, Path], exchanges: int, needs: bool
) -> None:
    """What was charged is not lost over an export that is being replaced, and no such answer tells when one is read."""
    here = Coordinator(config_of(small_model, PRIVACY), folders)
    for _ in range(exchanges):
        here.exchange()
    task = here.task(here.server.proceed()["north"])
    (folders["north"] / "registry.csv").write_bytes(b"")
    if needs:
        with pytest.raises(FedReasonError) as caught:
            take_part(here.places["north"], task)
        assert 300 <= caught.value.code < 400
        assert len(Ledger.opened(folders["north"]).entries()) == 0
    else:
        assert take_part(here.places["north"], task).site == "north"
