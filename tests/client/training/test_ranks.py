"""Several ranks give the sum of one, bit for bit; one that ends or differs is told by number, and the site goes on."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from torch.distributed import FileStore

from bench.waiting import PATIENCE
from client.privacy import mechanism
from client.privacy.mechanism import Exact, Mechanism
from client.privacy.sampling import poisson_sample
from client.site.config import load_site
from client.training.gradients import summed
from client.training.group import Gone, Group
from client.training.log import read_log
from client.training.requests import contribute
from client.training.share import Share
from client.training.team import Team
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Integers
from common.config import RunConfig
from common.errors import FedReasonError
from common.messages.kinds import Contribution
from common.questions.question import Patient
from simulation.prepare import prepare
from tests.client.training.tasks import task_of
from tests.ranks import Fatal, Refusing
from tests.small import PRIVACY, small_config

pytestmark = pytest.mark.federation

SIZES = (2, 3)
SUM = np.zeros(3, dtype=np.float32)
LOCAL_STEPS = {"protocol": "fedavg", "local_steps": 2}
RUNS: dict[str, dict[str, Any]] = {
    "exact": {},
    "exact, local steps": {"federation": LOCAL_STEPS},
    "exact, together": {"grpo": {"decode": "together", "decode_groups": 2}},
    "exact, choices of the hospital": {"questions": {"choices": "empirical"}},
    "private": {"privacy": PRIVACY},
    "private, local steps": {"privacy": PRIVACY, "federation": LOCAL_STEPS},
}


def run_of(model: Path, **changes: Any) -> RunConfig:
    federation = {"sites": 1, "quorum": 1, "sampling_rate": 1.0, **changes.pop("federation", {})}
    return small_config(model, federation=federation, simulation={"hospitals": ["north"], "patients": 9}, **changes)


def folder_of(place: Path, config: RunConfig, devices: int) -> Path:
    """Write a site that computes on so many devices."""
    (folder,) = prepare(config, synthetic.codebook(), place).values()
    path = folder / "site.toml"
    told = tomli_w.dumps({"devices": ["cpu"] * devices}).strip()
    path.write_text(path.read_text().replace('device = "auto"', told))
    return folder


@pytest.fixture(scope="module")
def teams(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Give the ranks of a site of so many devices, started once for all tests: that takes seconds."""
    started: list[Team] = []

    @cache
    def team(size: int) -> Team:
        folder = folder_of(tmp_path_factory.mktemp("ranks"), run_of(small_model), size)
        started.append(Team(folder, load_site(folder)))
        return started[-1]

    yield team
    for each in started:
        each.stop()


def repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let coins, noise and the key of a step be the same each time, in this process, which draws them all."""
    fixed = bytes(range(32))
    monkeypatch.setattr(mechanism, "secrets", SimpleNamespace(token_hex=fixed.hex))
    monkeypatch.setattr(mechanism, "poisson_sample", partial(poisson_sample, key=fixed))
    monkeypatch.setattr(mechanism, "discrete_gaussian", partial(mechanism.discrete_gaussian, key=fixed))


def sent(folder: Path, config: RunConfig, team: Team | None = None) -> tuple[Contribution, str]:
    """Return what a site sends, and its hash."""
    place = Workplace(folder)
    place._team = team
    answer = contribute(place, task_of(place, config))
    return answer, hashlib.sha256(answer.total.tobytes()).hexdigest()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("size", SIZES)
def test_a_site_sends_the_same_bits_with_any_number_of_ranks(
    size: int, name: str, small_model: Path, tmp_path: Path, teams: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated(monkeypatch)
    config = run_of(small_model, **RUNS[name])
    alone, bits = sent(folder_of(tmp_path / "alone", config, 1), config)
    folder = folder_of(tmp_path / "ranks", config, size)
    shared, shared_bits = sent(folder, config, teams(size))
    assert alone.total.any() and shared_bits == bits
    assert shared.counts == alone.counts, "and counts the same rollouts"
    entries = read_log(folder, config.name)
    assert [entry.patients for entry in entries] == [9] * len(entries) and entries[0].seconds_train > 0
    (whole,) = read_log(next((tmp_path / "alone").rglob("site.toml")).parent, config.name)[:1]
    assert (entries[0].completion_longest, entries[0].gradient_norm) == (whole.completion_longest, whole.gradient_norm)


@pytest.fixture
def place(small_model: Path, tmp_path: Path) -> Workplace:
    return Workplace(folder_of(tmp_path / "site", run_of(small_model), 1))


def both(place: Workplace, config: RunConfig, team: Team, patients: list[Patient], how: Mechanism) -> list[Integers]:
    """Return the sum of some patients as one rank and as all compute it."""
    engine, maker = place.engine(config), place.maker(config)
    engine.set_adapter(task_of(place, config).adapter)
    team.prepare(engine, config, place.codebook)
    return [each(engine, maker, patients, config, how)[0] for each in (summed, team.summed)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_fewer_patients_than_ranks_and_uneven_hands_make_no_difference(
    count: int, small_model: Path, place: Workplace, teams: Any
) -> None:
    config = run_of(small_model)
    alone, together = both(place, config, teams(3), place.training(config)[:count], Exact(config, 1, 0, 0))
    assert np.array_equal(alone, together) and alone.any() == bool(count)


def test_a_rank_that_is_killed_in_the_middle_is_told_by_number_and_started_again(
    small_model: Path, place: Workplace, teams: Any
) -> None:
    config, team = run_of(small_model), teams(2)
    patients = place.training(config)
    engine, maker = place.engine(config), place.maker(config)
    team.prepare(engine, config, place.codebook)
    (before,) = team.pids
    with pytest.raises(FedReasonError, match="E860: Rank 1 of this site ended"):
        team.summed(engine, maker, patients, config, Fatal(config, patients[3].id))
    assert team.pids == [] and not Path(f"/proc/{before}").exists()
    alone, together = both(place, config, team, patients, Exact(config, 1, 0, 0))
    assert np.array_equal(alone, together) and team.pids != [before]


def test_a_rank_that_was_killed_between_two_tasks_is_started_again_before_anything_is_charged(
    small_model: Path, place: Workplace, teams: Any
) -> None:
    config, team = run_of(small_model), teams(2)
    patients = place.training(config)
    team.prepare(place.engine(config), config, place.codebook)
    (before,) = team.pids
    os.kill(before, signal.SIGKILL)
    alone, together = both(place, config, team, patients, Exact(config, 1, 0, 0))
    assert np.array_equal(alone, together) and team.pids != [before]


@pytest.mark.parametrize(("foreseen", "told"), [(True, "E601: A gradient is not"), (False, "E860: Rank 1 failed")])
def test_what_a_rank_refuses_is_refused_and_no_value_of_a_record_is_told(
    foreseen: bool, told: str, small_model: Path, place: Workplace, teams: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config, team = run_of(small_model), teams(2)
    patients = place.training(config)
    victim = next(patient for patient in patients[1::2] if "lactate" in patient.values)
    engine, maker = place.engine(config), place.maker(config)
    team.prepare(engine, config, place.codebook)
    with caplog.at_level(logging.INFO), pytest.raises(FedReasonError, match=told) as refusal:
        team.summed(engine, maker, patients, config, Refusing(config, victim.id, foreseen=foreseen))
    assert victim.values["lactate"] not in f"{refusal.value.found} {caplog.text}".replace("E860", "")


def test_ranks_that_would_compute_other_bits_are_refused(small_model: Path, place: Workplace, teams: Any) -> None:
    config, team = run_of(small_model), teams(2)
    engine = place.engine(config)
    team.prepare(engine, config, place.codebook)
    torch.set_num_threads(2)
    try:
        with pytest.raises(FedReasonError, match=r"E862: Rank 1 is not as rank 0.* What differs: threads\."):
            team.prepare(engine, config, place.codebook)
    finally:
        torch.set_num_threads(1)


def test_a_device_that_is_not_there_is_told_by_number_before_anything_is_charged(
    small_model: Path, tmp_path: Path
) -> None:
    config = run_of(small_model)
    folder = folder_of(tmp_path / "site", config, 2)
    path = folder / "site.toml"
    path.write_text(path.read_text().replace('"cpu",\n]', '"cuda:77",\n]'))
    place = Workplace(folder)
    with pytest.raises(FedReasonError, match=r"E861: devices in site\.toml: cuda:77 is not there"):
        contribute(place, task_of(place, config))


def test_what_is_not_sealed_by_a_rank_of_the_group_is_not_heard(tmp_path: Path) -> None:
    """Unpickled, words of anybody who connects would be code."""
    secrets, heard = (bytes(32), bytes(31) + b"\1"), []
    ready = threading.Event()

    def liar() -> None:
        group = Group(FileStore(str(tmp_path / "store"), 2), 1, 2, secrets[1], "127.0.0.1")
        group.send(0, "words")
        ready.wait(PATIENCE)

    thread = threading.Thread(target=liar)
    thread.start()
    group = Group(FileStore(str(tmp_path / "store"), 2), 0, 2, secrets[0], "127.0.0.1")
    with pytest.raises(Gone):
        heard.append(group.receive(1))
    ready.set()
    thread.join()
    assert heard == []


def test_what_was_said_over_an_earlier_connection_is_not_heard_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun's numbers begin anew when it does, and the secret stays: a part recorded then is no part of now."""
    secret, put, recorded = bytes(32), Group._put, list[torch.Tensor]()

    def connected(store: str, rank: int, use: Callable[[Group], None]) -> threading.Thread:
        def connect() -> None:
            use(Group(FileStore(str(tmp_path / store), 2), rank, 2, secret, "127.0.0.1"))

        thread = threading.Thread(target=connect)
        thread.start()
        return thread

    def said(group: Group) -> None:
        group.send(0, "a part")

    def replayed(group: Group) -> None:
        group._cipher(0)
        for words in recorded:
            put(group, words, 0)

    with monkeypatch.context() as patched:
        patched.setattr(Group, "_put", lambda group, words, to: recorded.append(words.clone()) or put(group, words, to))
        first = connected("first", 1, said)
        assert Group(FileStore(str(tmp_path / "first"), 2), 0, 2, secret, "127.0.0.1").receive(1) == "a part"
        first.join()
    second = connected("second", 1, replayed)
    group = Group(FileStore(str(tmp_path / "second"), 2), 0, 2, secret, "127.0.0.1")
    with pytest.raises(Gone):
        group.receive(1)
    second.join()
    assert len(recorded) == 2


def test_a_rank_is_handed_the_records_of_its_patients_and_of_nobody_else(small_model: Path, place: Workplace) -> None:
    """All records of a registry stand in one table, which a patient's values look into."""
    config = run_of(small_model)
    patients = place.training(config)
    share = Share.of(config, SUM, Exact(config, 1, 0, 0), place.maker(config), patients[:2], texts=False)
    words, carried = pickle.dumps(share), pickle.loads(pickle.dumps(share)).patients
    assert [each.id.encode() in words for each in patients] == [True, True] + [False] * (len(patients) - 2)
    assert [list(each.values.items()) for each in carried] == [list(each.values.items()) for each in patients[:2]]
    assert b"client.registry.rows" not in words, "the table is not looked into from elsewhere"
