"""The one way of a task through a site: nothing is planned that was not allowed, or leaves that was not charged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.node.handlers import HANDLERS
from client.policy.change import keep
from client.policy.policy import read_policy
from client.privacy.ledger import Ledger
from client.site.decisions import decisions
from client.training.allowed import Allowed
from client.training.gate import check
from client.training.releases import gradient_release
from client.training.walk import Work, walk
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Integers
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Evaluation, Request, Task
from simulation.prepare import prepare
from tests.small import small_config

PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5}
SUM: Integers = np.zeros(3, dtype=np.int64)


@pytest.fixture
def config(small_model: Path) -> RunConfig:
    return small_config(small_model, federation={"population": 30, "sampling_rate": 0.3, "rounds": 2}, privacy=PRIVACY)


@pytest.fixture
def site(config: RunConfig, tmp_path: Path) -> Workplace:
    return Workplace(next(iter(prepare(config, synthetic.codebook(), tmp_path / "sites").values())))


def of_another_codebook(task: Task) -> Task:
    questions = task.config.questions.model_copy(update={"codebook_sha256": "0" * 64})
    return replace(task, config=task.config.model_copy(update={"questions": questions}))


def planned(
    seen: list[object], *, cost: bool = True, steps: int = 1
) -> Callable[[Workplace, Allowed], Work[Contribution]]:
    """Return a plan that writes down what it is asked for, and how many lines the ledger has when it computes."""

    def plan(place: Workplace, allowed: Allowed) -> Work[Contribution]:
        seen.append("planned")

        def compute() -> Contribution:
            seen.append("computed")
            return Contribution(place.name, allowed.task.round, allowed.task.attempt, SUM, None)

        release = replace(gradient_release(allowed.task, allowed.force, SUM.size), steps=steps)
        return Work(compute, release if cost else None)

    return plan


def refused(code: Code, call: Callable[[], object]) -> None:
    with pytest.raises(FedReasonError) as refusal:
        call()
    assert refusal.value.code is code


def test_what_the_gate_refuses_is_not_even_planned(site: Workplace, config: RunConfig) -> None:
    seen: list[object] = []
    task = of_another_codebook(Task(config, 1, 0, np.zeros(3, dtype=np.float32)))
    refused(Code.CODEBOOK_CHANGED, lambda: walk(site, task, planned(seen)))
    refused(Code.POLICY_REFUSED, lambda: walk(site, Task(config, 3, 0, None), planned(seen)))
    assert seen == []


@pytest.mark.parametrize(
    ("questions", "code"),
    [
        ({"weights": {"nobody_has_it": 1.0}}, Code.CONFIG_VALUE),
        ({"weights": {"albumin": 1.0}, "view": "core"}, Code.CONFIG_VALUE),
        ({"view": "of nobody"}, Code.CODEBOOK_REFERENCE),
    ],
)
def test_what_the_codebook_does_not_ask_is_asked_by_no_run(
    questions: dict[str, object], code: Code, site: Workplace, config: RunConfig
) -> None:
    """A coordinator states any weights: its own check of them is not the site's."""
    changed = config.model_copy(update={"questions": config.questions.model_copy(update=questions)})
    for kind in Request:
        refused(code, lambda: HANDLERS[kind](site, Task(changed, 1, 0, np.zeros(3, dtype=np.float32))))  # noqa: B023


def test_what_would_pass_the_budget_is_not_computed(site: Workplace, config: RunConfig) -> None:
    seen: list[object] = []
    task = Task(config, 1, 0, np.zeros(3, dtype=np.float32))
    refused(Code.BUDGET_SPENT, lambda: walk(site, task, planned(seen, steps=100_000)))
    assert seen == ["planned"] and not Ledger.opened(site.folder).entries()


def test_what_costs_has_its_line_when_it_leaves_and_shows_it(site: Workplace, config: RunConfig) -> None:
    seen: list[object] = []
    answer = walk(site, Task(config, 1, 0, np.zeros(3, dtype=np.float32)), planned(seen))
    ledger = Ledger.opened(site.folder)
    assert seen == ["planned", "computed"] and len(ledger.entries()) == 1
    assert answer.ledgers == {site.name: ledger.head}


def test_what_is_free_is_not_charged_and_shows_no_head_by_itself(site: Workplace, config: RunConfig) -> None:
    answer = walk(site, Task(config, 1, 0, np.zeros(3, dtype=np.float32)), planned([], cost=False))
    assert answer.ledgers == {} and not Ledger.opened(site.folder).entries()


def test_counts_that_stay_are_free_and_need_no_model(
    site: Workplace, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site.folder / "policy.toml"
    path.write_text(path.read_text().replace('"plain"', '"none"').replace("[privacy]", "[privacy]\nmin_sites = 1"))
    monkeypatch.setattr(Workplace, "engine", None)
    task = Task(config, 1, 0, np.zeros(3, dtype=np.float32))
    assert HANDLERS["evaluate"](site, task) == Evaluation(site.name, 1, None)


@pytest.mark.parametrize("kind", Request)
def test_every_request_passes_the_gate_before_anything_of_the_site_is_used(
    kind: str, site: Workplace, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for used in ("engine", "maker", "training", "questions", "log"):
        monkeypatch.setattr(Workplace, used, None)
    task = of_another_codebook(Task(config, 1, 0, np.zeros(3, dtype=np.float32)))
    refused(Code.CODEBOOK_CHANGED, lambda: HANDLERS[kind](site, task))


def test_a_policy_that_comes_into_force_under_way_is_written_down(site: Workplace, config: RunConfig) -> None:
    """One that is signed and taken back between two starts would else stand nowhere."""
    task = Task(config, 1, 0, np.zeros(3, dtype=np.float32))
    check(site, task)
    path = site.folder / "policy.toml"
    before = read_policy(site.folder).sha256
    path.write_text(path.read_text() + "\n# read again\n")
    for _ in range(2):
        check(site, task)
    latest, first = decisions(site.folder)
    assert first is not None and first.after == before
    assert latest is not None and (latest.before, latest.after) == (before, read_policy(site.folder).sha256)


def test_the_gate_leaves_no_trace(site: Workplace, config: RunConfig) -> None:
    """Of a policy that was in force before."""
    keep(site.folder, read_policy(site.folder))
    _ = site.ledger

    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(site.folder.rglob("*")) if path.is_file()}

    before = files()
    check(site, Task(config, 1, 0, None, ledgers={"south": {"south": site.ledger.head}}))
    assert files() == before


@pytest.mark.parametrize(("stated", "charged"), [(1e-5, 1e-5), (1e-7, 1e-7)])
def test_a_release_is_charged_at_the_delta_that_its_run_was_judged_by(
    site: Workplace, config: RunConfig, stated: float, charged: float
) -> None:
    """A run of a million patients has to state 1e-7: an epsilon at the policy's 1e-5 would promise them nothing."""
    assert config.privacy is not None
    config = config.model_copy(update={"privacy": config.privacy.model_copy(update={"delta": stated})})
    walk(site, Task(config, 1, 0, np.zeros(3, dtype=np.float32)), planned([]))
    (entry,) = Ledger.opened(site.folder).entries()
    assert entry.release.delta == charged
