"""A dishonest coordinator asks real sites over Flower: it learns nothing of a patient that the ledger has no line for.

The tests share one deployment and its seat. Every reply is held against the ledger where it comes in (`Seat.ask`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.deployment import NAME, NGINX, ROOT, Deployment
from bench.waiting import PATIENCE, until
from client.privacy.chain import ledger_folder
from client.privacy.peers import heard_of_peers
from client.site.kit import accepted_roster
from common import synthetic
from common.codebook import ROW
from common.config import RunConfig
from common.errors import Code
from common.messages.heads import Head
from common.messages.kinds import Layout, Task
from simulation.prepare import write_site
from tests.adversary.seat import HOOK, Seat, Told, hooked, ledger_lines, seated
from tests.hospitals import private_run
from tests.privacy_checks.unit import codebook_by, trained

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]

PATIENTS = 12
EVERY = 1.0
POLICY: dict[str, object] = {
    "metrics": "noised",
    "base_models": ["*"],
    "protocols": ["fedsgd", "fedavg"],
    "patient": {"column": "patient_id"},
    "privacy": {"epsilon": 100.0, "min_sites": 2, "max_steps": 1000, "min_answer_every": 0.0},
}
ROWS = synthetic.registry("north", PATIENTS, seed=7)
PATIENT = ROWS[4]["patient_id"]
"""Whose presence is asked for."""

Adapter = np.ndarray[Any, np.dtype[np.float32]]


class Hooked(Deployment):
    """A deployment whose sites may be told to fail, to be slow, and to go without a guard."""

    @property
    def hook(self) -> Path:
        return self.folder / "hook" / "now.json"

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.hook.parent}{os.pathsep}{ROOT}"
        return {**super().environment, "PYTHONPATH": path, "HOOKED": str(self.hook)}

    def start_again(self, site: str) -> None:
        """Start a site that was stopped, and wait until it is connected."""
        before = self.log(site).count("connected")
        self.start_site(site)
        until(lambda: self.log(site).count("connected") > before, lambda: self.log(site))


@dataclass
class Attacker:
    """Asks the site north, a round of its own for each task."""

    seat: Seat
    deployment: Hooked
    model: Path
    size: int = 0

    def __post_init__(self) -> None:
        self._rounds = count(1)

    @property
    def site(self) -> Path:
        return self.deployment.hospitals / "north"

    @property
    def lines(self) -> int:
        return ledger_lines(self.site)

    def run(self, name: str = "trial", **changes: Any) -> RunConfig:
        sections: dict[str, Any] = {
            "federation": {"name": NAME, "rounds": 300, "deadline": 60.0},
            "questions": {"held_out": 0.0},
            "privacy": {"answer_every": EVERY, "metrics_noise_multiplier": 20.0},
            "evaluation": {"per_patient": 1},
        }
        merged = {key: {**sections.get(key, {}), **value} for key, value in changes.items()}
        return private_run(self.model, name, **{**sections, **merged})

    def task(self, config: RunConfig | None = None, value: float = 0.0, **changes: Any) -> Task:
        """Return a task as an honest coordinator binds it, but for what is changed."""
        bound = accepted_roster(self.site).sha256
        adapter = np.full(self.size, value, dtype=np.float32)
        more = {"round": next(self._rounds), "attempt": 0, "adapter": adapter, "roster_sha256": bound, **changes}
        return Task(config or self.run(), **more)

    def ask(self, kind: str = "train", config: RunConfig | None = None, value: float = 0.0, **changes: Any) -> Told:
        return self.seat.ask("north", kind, self.task(config, value, **changes))

    def both(
        self, kind: str = "train", config: RunConfig | None = None, value: float = 0.0, **changes: Any
    ) -> set[str]:
        """Ask with the patient there and with the patient opted out, and return what can be told apart."""
        there = self.ask(kind, config, value, **changes).outcome
        with self.gone():
            return {there, self.ask(kind, config, value, **changes).outcome}

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Have the patient opt out for a while."""
        path = self.site / "excluded.txt"
        path.write_text(f"{PATIENT}\n")
        yield
        path.write_text("")

    def hook(self, **behaviour: object) -> None:
        hooked(self.deployment.hook, **behaviour)


def write_registry(path: Path, rows: list[dict[str, str]]) -> None:
    """Replace a registry's file, as an export does."""
    book = synthetic.codebook()
    columns = list(dict.fromkeys([*rows[0], book.patient, *book.by_name]))
    (write_site(path.parent / "export", "export", columns, rows, book) / "registry.csv").replace(path)


@pytest.fixture(scope="module")
def attacker(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacker]:
    folder = tmp_path_factory.mktemp("seat")
    registries = {name: folder / name / "registry.csv" for name in ("north", "south")}
    for name, path in registries.items():
        path.parent.mkdir()
        write_registry(path, ROWS if name == "north" else synthetic.registry(name, PATIENTS, seed=7))
    with Hooked(folder / "d", registries, POLICY) as deployment:
        deployment.hook.parent.mkdir(parents=True)
        (deployment.hook.parent / "sitecustomize.py").write_text(HOOK)
        deployment.provision()
        deployment.up()
        for site in registries:
            deployment.start_site(site)
        for site in registries:
            deployment.await_site(site)
        with seated(deployment, folder / "coordinator") as seat:
            attacker = Attacker(seat, deployment, small_model)
            layout = attacker.ask("query", round=0, adapter=None).reply
            assert isinstance(layout, Layout)
            attacker.size = layout.size
            assert attacker.ask().outcome == "Contribution"
            yield attacker


@pytest.fixture(autouse=True)
def _as_it_is(attacker: Attacker) -> Iterator[None]:
    yield
    attacker.hook()


# --- Adapters and settings at which numbers overflow ---

OVERFLOWING: dict[str, tuple[dict[str, Any], float, Code]] = {
    "an adapter of NaN": ({"grpo": {"top_p": 0.9}}, float("nan"), Code.MODEL_ADAPTER),
    "an adapter of 3e38": ({"grpo": {"top_p": 0.9}}, 3e38, Code.MODEL_ADAPTER),
    "an adapter of minus infinity": ({"grpo": {"top_p": 0.9}}, float("-inf"), Code.MODEL_ADAPTER),
    "a temperature of 0.01": ({"grpo": {"temperature": 0.01}}, 0.0, Code.POLICY_REFUSED),
    "a huge group": ({"grpo": {"group_size": 10**7}}, 0.0, Code.POLICY_REFUSED),
    "endless completions": ({"grpo": {"max_completion_tokens": 10**7}}, 0.0, Code.POLICY_REFUSED),
    "fedavg at 60 bits": ({"federation": {"protocol": "fedavg"}, "lattice": {"bits": 60}}, 0.0, Code.DP_REFUSED),
}


@pytest.mark.parametrize("name", OVERFLOWING)
def test_what_could_overflow_is_refused_alike_whoever_is_there_and_costs_nothing(attacker: Attacker, name: str) -> None:
    sections, value, code = OVERFLOWING[name]
    before, config = attacker.lines, attacker.run(**sections)
    assert attacker.both("train", config, value) == {f"E{int(code)}"}
    assert attacker.ask("evaluate", config, value).outcome == f"E{int(code)}"
    assert attacker.lines == before


def test_tasks_that_no_coordinator_makes_are_refused_before_anything_is_charged(attacker: Attacker) -> None:
    before = attacker.lines
    for changes in (
        {"adapter": None},
        {"adapter": np.zeros(0, dtype=np.float32)},
        {"adapter": np.zeros(attacker.size + 1, dtype=np.float32)},
    ):
        (outcome,) = attacker.both(**changes)
        assert outcome.startswith("E"), changes
    for more in (
        {"round": -1},
        {"round": 301},
        {"attempt": -1},
        {"attempt": 10**6},
        {"roster_sha256": None},
        {"roster_sha256": "0" * 64},
    ):
        assert attacker.ask(**more).outcome.startswith("E"), more
    assert attacker.lines == before


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_patient_at_whom_the_computation_fails_is_answered_for_like_one_who_is_not_there(
    attacker: Attacker, kind: str
) -> None:
    config = attacker.run("failing", questions={"held_out": 0.0 if kind == "train" else 1.0})
    attacker.hook(patient=PATIENT, does="fails")
    before = attacker.lines
    assert attacker.both(kind, config) == {"Contribution" if kind == "train" else "Evaluation"}
    assert attacker.lines == before + 2


def test_without_its_guard_a_failing_patient_is_told_apart(attacker: Attacker) -> None:
    attacker.hook(patient=PATIENT, does="fails", bare=True)
    assert attacker.both(config=attacker.run("unguarded")) == {"silence", "Contribution"}


def test_local_steps_that_leave_the_lattice_are_answered_and_never_refused_after_the_charge(attacker: Attacker) -> None:
    optimizer = {"name": "sgd", "learning_rate": 1e6, "momentum": 0.0, "warmup_rounds": 0, "decay": 0.0}
    config = attacker.run("local", federation={"protocol": "fedavg", "local_steps": 3}, optimizer=optimizer)
    before = attacker.lines
    assert attacker.both(config=config) == {"Contribution"}
    assert attacker.lines == before + 2


# --- Asked again, and asked otherwise ---


def test_a_task_that_comes_again_gets_the_same_bytes_or_nothing_and_is_charged_once(attacker: Attacker) -> None:
    before, first = attacker.lines, attacker.task()
    answers = [attacker.seat.ask("north", "train", first) for _ in range(2)]
    assert [told.outcome for told in answers] == ["Contribution"] * 2 and len({told.frame for told in answers}) == 1
    other = attacker.task(value=0.5, round=first.round)
    assert attacker.seat.ask("north", "train", other).outcome == "silence", "the same attempt at another adapter"
    assert attacker.lines == before + 1
    assert attacker.ask().outcome == "Contribution"
    assert attacker.seat.ask("north", "train", first).outcome == "silence", "its answer is no longer kept"
    assert attacker.lines == before + 2


def test_a_task_of_another_federation_is_refused(attacker: Attacker) -> None:
    before, config = attacker.lines, attacker.run(federation={"name": f"{NAME}2"})
    assert attacker.both("train", config) == {f"E{int(Code.FEDERATION_OTHER)}"}
    for kind in ("query", "query.ask", "evaluate"):
        assert attacker.ask(kind, config).outcome == f"E{int(Code.FEDERATION_OTHER)}"
    assert attacker.lines == before


# --- What the sites heard of one another ---


def test_invented_names_do_not_wash_out_what_was_heard_of_the_roster(attacker: Attacker) -> None:
    heard = Head(5, "5" * 64)
    assert attacker.ask(ledgers={"south": {"south": heard}}).outcome == "Contribution"
    for number in range(3):
        flood = {f"made{number}-{one}": {f"made{number}-{one}": Head(1, "1" * 64)} for one in range(150)}
        assert attacker.ask("query", adapter=None, ledgers=flood).outcome == "Layout"
    assert heard_of_peers(ledger_folder(attacker.site)) == {"south": heard}


# --- Who is a patient, and who is there ---


def test_a_patient_who_opts_out_or_is_erased_leaves_at_the_next_task(attacker: Attacker) -> None:
    config = attacker.run("leaving")

    def there() -> int:
        assert attacker.ask(config=config).outcome == "Contribution"
        return trained(attacker.site, "leaving")

    assert there() == PATIENTS
    with attacker.gone():
        assert there() == PATIENTS - 1
        attacker.hook(**{"opted in": True})
        assert there() == PATIENTS, "without its guard the patient stays"
        attacker.hook()
    registry = attacker.deployment._registries["north"]
    write_registry(registry, [row for row in ROWS if row["patient_id"] != PATIENT])
    assert there() == PATIENTS - 1
    write_registry(registry, ROWS)
    assert there() == PATIENTS


# --- When answers come ---


def test_slow_and_fast_patients_are_answered_for_at_the_same_multiples(attacker: Attacker) -> None:
    """A tick is many times what an answer takes, so that a busy machine moves nothing to the next one."""
    every = 8.0
    config = attacker.run("timed", privacy={"answer_every": every})

    looks = Path(f"{attacker.deployment.hook}.looks")

    def ticks() -> float:
        looks.unlink(missing_ok=True)
        told = attacker.ask(config=config)
        assert told.outcome == "Contribution"
        return told.seconds / every

    def looked() -> int:
        return len(looks.read_text().splitlines())

    attacker.hook(patient=PATIENT, does=every / 4)
    slow, slowly = ticks(), looked()
    with attacker.gone():
        fast, quickly = ticks(), looked()
    assert int(slow) == int(fast) == 1, "a tick, and the way there and back"
    assert 0.6 < slowly / quickly < 1.7 and quickly > 2, "nor does how often a site looks whether the run goes on"
    attacker.hook(patient=PATIENT, does=every, **{"at once": True})
    slow = ticks()
    with attacker.gone():
        fast = ticks()
    assert fast < 1 < slow, "without its guard the answer says how long it took"


# --- A site whose ledger or codebook is another (these stop the site; last) ---


def test_a_codebook_by_row_starts_no_site_and_would_be_answered_without_the_guard(attacker: Attacker) -> None:
    deployment, book = attacker.deployment, codebook_by(ROW)
    south = deployment.hospitals / "south"
    deployment.end("south")
    (south / "codebook.toml").write_text(book.to_toml())
    assert deployment.start_site("south").wait(PATIENCE) != 0
    assert f"E{int(Code.PRIVACY_UNIT)}" in deployment.log("south")
    attacker.hook(**{"any unit": True})
    deployment.start_again("south")
    config = attacker.run("rows", questions={"codebook_sha256": book.sha256})
    guarded = ledger_lines(south)
    assert attacker.seat.ask("south", "train", attacker.task(config)).outcome == "Contribution"
    attacker.hook()
    task = attacker.task(config)
    assert attacker.seat.ask("south", "train", task).outcome == f"E{int(Code.PRIVACY_UNIT)}", "and while it runs"
    assert ledger_lines(south) == guarded + 1


def test_a_site_whose_ledger_was_removed_answers_nothing_privately_until_it_is_back(attacker: Attacker) -> None:
    deployment = attacker.deployment
    ledger, kept = ledger_folder(attacker.site), deployment.folder / "kept"
    before = attacker.lines
    deployment.end("north")
    shutil.copytree(ledger, kept)
    shutil.rmtree(ledger)
    deployment.start_site("north")
    status = deployment.processes["north"].wait(PATIENCE)
    assert status != 0 and f"E{int(Code.LEDGER_ROLLED_BACK)}" in deployment.log("north")
    assert attacker.lines == 0
    shutil.rmtree(ledger, ignore_errors=True)
    shutil.copytree(kept, ledger)
    deployment.start_again("north")
    assert attacker.ask().outcome == "Contribution" and attacker.lines == before + 1
