"""Rounds: any split gives the pooled adapter, an interrupted run ends like an undisturbed one, replies are checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from client.training.requests import contribute, evaluate, layout
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import adapter_sha256
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Evaluation, Layout, Refusal, Reply, Task
from common.stream import Stream
from server.rounds.loop import Progress, RoundSum, run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange, one_site
from simulation.prepare import prepare, write_site
from tests.small import small_config

FEW = {"patients": 6}
"""Records of each hospital, where the claim is not of how many there are."""


class Stopped(Exception):
    """Stands for a power cut between two rounds."""


def open_sites(config: RunConfig, folder: Path) -> list[Workplace]:
    return [Workplace(path) for path in prepare(config, synthetic.codebook(), folder).values()]


def run(config: RunConfig, sites: list[Workplace], folder: Path, stop_after: int | None = None) -> str:
    def report(progress: Progress) -> None:
        if progress.round == stop_after:
            raise Stopped

    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, LocalExchange(sites, evaluate=False), store, report))


def shuffled_sites(config: RunConfig, count: int, folder: Path) -> list[Workplace]:
    codebook = synthetic.codebook()
    rows = [row for name in ("north", "south", "west") for row in synthetic.registry(name, 8, config.seed)]
    rows = Stream.named("shuffle", count).shuffled(rows)
    columns = [codebook.patient, *codebook.by_name]
    return [
        Workplace(write_site(folder / f"{count}-{i}", f"s{i}", columns, rows[i::count], codebook)) for i in range(count)
    ]


def test_any_split_in_any_order_gives_the_same_bits(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    hashes = set()
    for count in (1, 3, 5):
        federation = config.federation.model_copy(update={"sites": count, "quorum": count})
        split = config.model_copy(update={"federation": federation})
        hashes.add(run(split, shuffled_sites(config, count, tmp_path), tmp_path / f"run{count}"))
    assert len(hashes) == 1
    size = shuffled_sites(config, 1, tmp_path)[0].engine(config).layout.size
    assert hashes != {adapter_sha256(np.zeros(size, dtype=np.float32))}


def test_sums_of_floats_depend_on_the_split(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that the test above must catch: without the lattice the hashes differ."""

    def as_floats(vector: np.ndarray, bits: int) -> np.ndarray:
        return vector.astype(np.float32)

    monkeypatch.setattr("client.privacy.mechanism.to_lattice", as_floats)
    monkeypatch.setattr("client.training.gradients.add", lambda a, b: (a.astype(np.float32) + b).astype(np.float32))
    monkeypatch.setattr("server.rounds.loop.add", lambda a, b: (a.astype(np.float32) + b).astype(np.float32))
    monkeypatch.setattr("server.rounds.loop.from_lattice", lambda total, unit: total.astype(np.float64))
    config = small_config(
        small_model, federation={"sampling_rate": 1.0, "rounds": 1}, optimizer={"name": "sgd", "momentum": 0.0}
    )
    hashes = set()
    for count in (1, 5):
        federation = config.federation.model_copy(update={"sites": count, "quorum": count})
        split = config.model_copy(update={"federation": federation})
        hashes.add(run(split, shuffled_sites(config, count, tmp_path), tmp_path / f"run{count}"))
    assert len(hashes) == 2


@pytest.mark.parametrize("protocol", ["fedsgd", "fedavg"])
def test_an_interrupted_run_ends_with_the_adapter_of_an_undisturbed_one(
    small_model: Path, tmp_path: Path, protocol: str
) -> None:
    steps = 2 if protocol == "fedavg" else 1
    config = small_config(small_model, federation={"protocol": protocol, "local_steps": steps}, simulation=FEW)
    sites = open_sites(config, tmp_path / "run")
    undisturbed = run(config, sites, tmp_path / "undisturbed")
    for stop_after in (1, 2):
        folder = tmp_path / f"stopped after {stop_after}"
        with pytest.raises(Stopped):
            run(config, sites, folder, stop_after)
        assert run(config, sites, folder) == undisturbed
        with RunStore.opened(folder, config) as store:
            assert [row.round for row in store.rounds()] == [1, 2, 3]
            assert len({row.adapter_sha256 for row in store.rounds()}) == 3, "every round moves it"
            assert store.rounds()[-1].adapter_sha256 == undisturbed


def test_fedavg_moves_by_the_mean_change_and_differs_from_fedsgd(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, federation={"protocol": "fedavg", "local_steps": 2, "rounds": 1}, simulation=FEW)
    sites = open_sites(config, tmp_path / "run")
    with RunStore.opened(tmp_path / "fedavg", config) as store:
        adapter = run_rounds(config, LocalExchange(sites, evaluate=False), store)
    task = Task(config, 1, 0, np.zeros_like(adapter))
    changes = [contribute(site, task).total for site in sites]
    assert np.array_equal(adapter, (np.sum(changes, axis=0) * 2.0**-40 / 3).astype(np.float32))
    assert adapter.any()


def test_a_run_folder_of_another_configuration_is_refused(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    with RunStore.opened(tmp_path, config):
        pass
    with pytest.raises(FedReasonError) as refusal, RunStore.opened(tmp_path, config.model_copy(update={"seed": 4})):
        pass
    assert refusal.value.code == Code.RUN_OTHER_CONFIG


def test_a_second_process_in_the_same_run_folder_is_refused(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rounds.store._LOCK_SECONDS", 0.1)
    config = small_config(small_model)
    second = RunStore.opened(tmp_path, config)
    with RunStore.opened(tmp_path, config), pytest.raises(FedReasonError) as refusal, second:
        pass
    assert refusal.value.code == Code.RUN_LOCKED


def test_a_truncated_checkpoint_is_refused_and_left_in_place(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, federation={"rounds": 1}, simulation=FEW)
    run(config, open_sites(config, tmp_path / "run"), tmp_path / "r")
    path = tmp_path / "r" / "checkpoint.safetensors"
    whole = path.read_bytes()
    for keep in (0, 10, 200):
        path.write_bytes(whole[:keep])
        with pytest.raises(FedReasonError) as refusal:
            run(config, [], tmp_path / "r")
        assert refusal.value.code == Code.RUN_CHECKPOINT
        assert path.read_bytes() == whole[:keep]


class Scripted:
    """An exchange that answers what a test says."""

    def __init__(self, replies: list[Reply]) -> None:
        self.replies = replies

    expected, absent, roster = 3, (), None

    @property
    def asked(self) -> dict[str, int]:
        return {"s0": 1, "s1": 1, "s2": 1}

    def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        yield from (Layout(f"s{i}", 4, "same") for i in range(3))

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        yield from self.replies

    def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
        yield from ()

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        yield from [Evaluation("s0", task.round, None)]


def contribution(site: str, *values: int, number: int = 1, attempt: int = 0) -> Contribution:
    return Contribution(site, number, attempt, np.array(values, dtype=np.int64), None)


def test_a_wrong_late_or_repeated_reply_is_left_out_with_its_number(small_model: Path) -> None:
    task = Task(small_config(small_model), 1, 0, np.zeros(4, dtype=np.float32))
    gathered = RoundSum(np.zeros(4, dtype=np.int64))
    gathered.take(contribution("a", 1, 2, 3, 4), task)
    for reply in (
        contribution("a", 9, 9, 9, 9),
        contribution("b", 1, 1, 1),
        contribution("c", 9, 9, 9, 9, number=2),
        contribution("d", 9, 9, 9, 9, attempt=1),
        Refusal("e", 304),
    ):
        gathered.take(reply, task)
    assert gathered.total.tolist() == [1, 2, 3, 4]
    assert gathered.sites == ["a"]
    assert gathered.refused == {"a": 504, "b": 504, "c": 504, "d": 504, "e": 304}


def test_a_sum_that_would_overflow_leaves_that_site_out(small_model: Path) -> None:
    task = Task(small_config(small_model), 1, 0, np.zeros(2, dtype=np.float32))
    gathered = RoundSum(np.zeros(2, dtype=np.int64))
    for reply in (contribution("a", 2**62, 1), contribution("b", 2**62, 1), contribution("c", -1, 1)):
        gathered.take(reply, task)
    assert gathered.total.tolist() == [2**62 - 1, 2]
    assert gathered.refused == {"b": 601}


def test_a_checkpoint_of_another_run_is_refused(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, federation={"rounds": 1})
    other = config.model_copy(update={"seed": 4})
    sites = open_sites(config, tmp_path / "run")
    for name, settings in (("a", config), ("b", other)):
        run(settings, sites, tmp_path / name)
    shutil.copy(tmp_path / "b" / "checkpoint.safetensors", tmp_path / "a" / "checkpoint.safetensors")
    with pytest.raises(FedReasonError) as refusal:
        run(config, sites, tmp_path / "a")
    assert refusal.value.code == Code.RUN_OTHER_CONFIG


def test_below_the_quorum_the_run_stops_and_keeps_what_it_has(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    with RunStore.opened(tmp_path, config) as store:
        with pytest.raises(FedReasonError) as refusal:
            run_rounds(config, Scripted([contribution("s0", 1, 1, 1, 1), Refusal("s1", 301)]), store)
        assert refusal.value.code == Code.RUN_QUORUM
        assert "s1 refused: E301" in str(refusal.value)
        kept = store.load()
    assert kept is not None
    assert kept.round == 0


def test_a_missing_site_leaves_the_divisor_unchanged(small_model: Path, tmp_path: Path) -> None:
    sgd = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "warmup_rounds": 0, "decay": 0.0}
    config = small_config(small_model, federation={"rounds": 1, "quorum": 1}, optimizer=sgd)
    unit = 9 * 2**40
    with RunStore.opened(tmp_path / "a", config) as store:
        adapter = run_rounds(config, Scripted([contribution("s0", unit, 0, 0, 0), Refusal("s1", 301)]), store)
    assert config.divisor == 9.0
    assert adapter.tolist() == [-1.0, 0.0, 0.0, 0.0]


def test_sites_that_would_train_something_else_stop_the_run(small_model: Path, tmp_path: Path) -> None:
    class Differing(Scripted):
        def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
            yield from [Layout("s0", 4, "one"), Layout("s1", 4, "another"), Layout("s2", 4, "one")]

    with RunStore.opened(tmp_path, small_config(small_model)) as store, pytest.raises(FedReasonError) as refusal:
        run_rounds(small_config(small_model), Differing([]), store)
    assert refusal.value.code == Code.MODEL_ADAPTER


def test_a_site_keeps_its_counts_unless_its_policy_lets_them_out(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    text = (folder / "policy.toml").read_text()
    (folder / "policy.toml").write_text(
        text.replace('metrics = "plain"', "").replace("[privacy]", "[privacy]\nrequired = false\nmin_sites = 1")
    )
    site = Workplace(folder)
    task = Task(config, 1, 0, np.zeros(site.engine(config).layout.size, dtype=np.float32))
    assert contribute(site, task).counts is None
    assert evaluate(site, task).counts is None


def test_a_site_refuses_a_run_with_another_codebook(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    site = open_sites(config, tmp_path)[0]
    questions = config.questions.model_copy(update={"codebook_sha256": "0" * 64})
    with pytest.raises(FedReasonError) as refusal:
        layout(site, Task(config.model_copy(update={"questions": questions}), 0, 0, None))
    assert refusal.value.code == Code.CODEBOOK_CHANGED


def test_a_site_with_three_patients_takes_part(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, federation={"sites": 1, "rounds": 2, "sampling_rate": 1.0})
    codebook = synthetic.codebook()
    rows = synthetic.registry("north", 3, seed=1)
    site = Workplace(write_site(tmp_path / "tiny", "tiny", [codebook.patient, *codebook.by_name], rows, codebook))
    with RunStore.opened(tmp_path / "run", config) as store:
        adapter = run_rounds(one_site(config), LocalExchange([site]), store)
        assert len(store.rounds()) == 2
        assert adapter.size == site.engine(config).layout.size


def test_a_round_that_samples_nobody_sends_zeros(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, federation={"sampling_rate": 1e-9})
    site = open_sites(config, tmp_path)[0]
    task = Task(config, 1, 0, np.zeros(site.engine(config).layout.size, dtype=np.float32))
    assert not contribute(site, task).total.any()


def test_no_training_patient_is_held_out_and_the_split_is_the_patients_own(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    sites = open_sites(config, tmp_path)
    training = {p.id for site in sites for p in site.training(config)}
    asked = {q.patient for site in sites for q in site.questions(config)}
    everyone = {p.id for site in sites for p in site.patients}
    assert not training & asked
    assert len(training) < len(everyone)
    pooled = Workplace(tmp_path / "pooled" / "pooled")
    assert {p.id for p in pooled.training(config)} == training


def test_removing_a_patient_changes_no_other_contribution(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model, federation={"sampling_rate": 1.0}, simulation=FEW)
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    whole = Workplace(folder)
    dropped = whole.training(config)[2]
    shutil.copytree(folder, tmp_path / "less")
    lines = (folder / "registry.csv").read_text().splitlines(keepends=True)
    (tmp_path / "less" / "registry.csv").write_text("".join(x for x in lines if not x.startswith(dropped.id + ",")))
    less = Workplace(tmp_path / "less")
    zero = np.zeros(whole.engine(config).layout.size, dtype=np.float32)
    task = Task(config, 1, 0, zero)
    from client.privacy.mechanism import Exact
    from client.training.gradients import one_gradient
    from common.lattice import to_lattice

    mine, _ = one_gradient(whole.engine(config), whole.maker(config), dropped, config, Exact(config, 1, 0, 0))
    alone = to_lattice(mine.astype(np.float64), config.lattice.bits)
    assert np.array_equal(contribute(whole, task).total - contribute(less, task).total, alone)
