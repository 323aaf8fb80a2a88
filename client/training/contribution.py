"""What a site gives to a round: gradients summed on the lattice, a local change, or held-out counts.

Every random choice is keyed by (seed, purpose, patient, round, step, attempt), so a patient contributes the same bits
wherever the record lives. Patient identifiers must therefore be unique over a simulation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from client.grpo.log import UNWATCHED, StepWatch, Watch
from client.grpo.rollout import RolloutCounts
from client.policy.change import require_confirmed
from client.policy.policy import PolicyInForce, read_policy
from client.policy.unit import require_unit
from client.privacy.chain import ledger_folder
from client.privacy.ledger import Ledger
from client.privacy.mechanism import Exact, Mechanism, mechanism_of
from client.privacy.peers import hear_of_peers, heard_of_peers
from client.privacy.validity import require_invariant_rollouts, require_valid_privacy
from client.questions.fitted import Fitted, fit
from client.site.budget import claim_registry, open_ledger
from client.site.config import require_source
from client.site.exclusions import without_excluded
from client.site.federation import require_federation
from client.site.opened import Opened, open_registry, reopened
from client.site.secret import split_secret
from client.site.split import held_out
from client.site.stage import Stage, tell
from client.training.engine import Engine, resident_engine
from client.training.gradients import gradients
from client.training.log import TrainingLog
from client.training.maker import require_made
from client.training.metrics import accuracy_counts, held_out_questions, noised_counts
from client.training.releases import charged, gradient_release, metrics_release
from common.arrays import Integers, Vector
from common.codebook import Codebook
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.lattice import add, from_lattice, to_lattice
from common.logs import logger
from common.messages.heads import Heads
from common.messages.kinds import Contribution, Estimate, Evaluation, Layout, Task
from common.model.optimizer import Optimizer
from common.questions.question import Patient, Question, QuestionMaker
from common.tiny.text import CodebookText

_log = logger("site")
_PROBE_PATIENTS, _PROBE_SECONDS = 16, 20.0


class Site:
    """A site's patients, ready to take part in runs."""

    def __init__(self, folder: Path, opened: Opened | None = None) -> None:
        opened = opened or open_registry(folder)
        self.folder, self.config, self.codebook, self._opened = folder, opened.config, opened.codebook, opened
        self.name = opened.config.name
        self._fitted: tuple[frozenset[str], Fitted] | None = None
        self._log: TrainingLog | None = None

    @cached_property
    def ledger(self) -> Ledger:
        """The site's ledger, every line checked when it is first needed."""
        return open_ledger(self.folder, self.config)

    @property
    def patients(self) -> list[Patient]:
        """Patients who have not opted out, by the list as it stands now; a list that names a stranger is refused."""
        config = self.config
        return without_excluded(
            self._opened.registry.patients,
            self.folder,
            required=config.federation is not None,
            whole_hospital=config.exclusions.whole_hospital,
        )

    def check(self, task: Task) -> PolicyInForce:
        """Refuse a task of another roster, one that the policy does not allow, or one for another codebook.

        So is a private one where another site saw more of this site's ledger than there is.
        Nothing of the registry is looked at before. Who opted out is, so that nothing is charged where that is not
        known. Returns the policy that the task was held against, which is read once: what is charged and released under
        it is what was checked.
        """
        roster = require_federation(self.folder, self.config, task)
        force = read_policy(self.folder)
        require_confirmed(self.folder, force)
        force.policy.refuse(task.config)
        if task.round > task.config.federation.rounds:
            raise FedReasonError(
                Code.POLICY_REFUSED,
                f"Round {task.round} is beyond the {task.config.federation.rounds} of run '{task.config.name}'.",
                "Nothing was computed. Ask the coordinator what that was.",
            )
        stated = task.config.questions.codebook_sha256
        if stated != self.codebook.sha256:
            raise FedReasonError(
                Code.CODEBOOK_CHANGED,
                f"The run states codebook {str(stated)[:12]}, {self.config.codebook} has {self.codebook.sha256[:12]}.",
                "Ask the coordinator for the federation's codebook.",
            )
        require_unit(force.policy, task.config, self.codebook)
        require_valid_privacy(task.config, self.codebook)
        require_invariant_rollouts(task.config, self.config.rollouts)
        require_source(self.config.registry)
        self._look_again()
        _ = self.patients
        if task.config.privacy is not None:
            self.ledger.seen_by_peers(task.ledgers.get(self.name, {}))
            hear_of_peers(ledger_folder(self.folder), self.name, task.ledgers, roster)
        return force

    def _look_again(self) -> None:
        """Read the registry again where it changed since it was read: whoever was erased from it is gone now."""
        opened = reopened(self.folder, self._opened)
        if opened is not self._opened:
            self._opened, self._fitted = opened, None
            if "ledger" in vars(self):
                claim_registry(self.folder, self.config, self.ledger)

    def engine(self, config: RunConfig) -> Engine:
        """Return the resident model for a run; in a federation it is made aside, and refused until it is there."""
        if self.config.federation is not None:
            require_made(config, self.codebook)
        return resident_engine(config, self.codebook, self.config.device, self.config.rollouts)

    def maker(self, config: RunConfig) -> QuestionMaker:
        """Return what makes this run's questions."""
        questions = config.questions
        if questions.choices == "codebook":
            return QuestionMaker(self.codebook, questions.view, weights=questions.weights)
        fitted = self._fitted_on(self.training(config))
        return QuestionMaker(
            self.codebook, questions.view, weights=questions.weights, choices=fitted.choices, leaks=fitted.leaks
        )

    def _fitted_on(self, patients: Sequence[Patient]) -> Fitted:
        """Fit choices and leaks, anew only where the patients have changed."""
        of = frozenset(patient.id for patient in patients)
        if self._fitted is None or self._fitted[0] != of:
            self._fitted = of, fit(self.codebook, patients)
        return self._fitted[1]

    def training(self, config: RunConfig) -> list[Patient]:
        """Patients that training may draw from."""
        secret = split_secret(self.folder, self.config.federation)
        return [patient for patient in self.patients if not held_out(patient, config, secret)]

    def layout(self, task: Task) -> Layout:
        """Say which parameters this site would train."""
        self.check(task)
        engine = self.engine(task.config)
        return Layout(self.name, engine.layout.size, engine.layout_sha256(), self._heads(task))

    def estimate(self, task: Task) -> Estimate:
        """Say that this site would take part, and how long a group takes here on a patient that nobody is."""
        self.check(task)
        engine = self.engine(task.config)
        engine.set_adapter(np.zeros(engine.layout.size, dtype=np.float32))
        seconds = seconds_per_group(engine, self.maker(task.config), self.codebook, task.config)
        return Estimate(self.name, float(f"{seconds:.1g}"), engine.layout.size)

    def contribute(self, task: Task) -> Contribution:
        """Compute this site's part of a round; a private one is charged before it can leave."""
        force = self.check(task)
        counted, log = force.policy.metrics == "plain", self._training_log(task.config)
        if task.config.privacy is None:
            return self._contribution(task, counted, log)
        release = gradient_release(task, force, self.engine(task.config).layout.size)
        with charged(self.ledger, release, force.policy.privacy.epsilon):
            contribution = self._contribution(task, counted, log)
        return replace(contribution, ledgers=self._heads(task))

    def _training_log(self, config: RunConfig) -> TrainingLog:
        """Return the log of a run, opened anew where it is another's."""
        if self._log is None or self._log.config.sha256 != config.sha256:
            if self._log is not None:
                self._log.close()
            self._log = TrainingLog(self.folder, self.config.log, config)
        return self._log

    def _contribution(self, task: Task, with_counts: bool, log: TrainingLog) -> Contribution:
        engine, maker, patients = self.engine(task.config), self.maker(task.config), self.training(task.config)
        assert task.adapter is not None
        if task.config.federation.protocol == "fedsgd":
            total, counted = _logged_sum(engine, maker, patients, task, 0, task.adapter, log)
        else:
            total, counted = local_change(engine, maker, patients, task, log)
        counts = asdict(counted) if with_counts else None
        return Contribution(self.name, task.round, task.attempt, total, counts)

    def questions(self, config: RunConfig) -> list[Question]:
        """Held-out questions of this site, the same for every adapter."""
        secret = split_secret(self.folder, self.config.federation)
        patients = (patient for patient in self.patients if held_out(patient, config, secret))
        return list(held_out_questions(patients, self.maker(config), config))

    def evaluate(self, task: Task) -> Evaluation:
        """Answer the held-out questions, unless the site's policy keeps the counts anyway."""
        force = self.check(task)
        leaves = force.policy.metrics_of(task.config)
        if leaves == "none":
            return Evaluation(self.name, task.round, None)
        assert task.adapter is not None
        engine, questions = self.engine(task.config), self.questions(task.config)
        tell(Stage.EVALUATING)
        engine.set_adapter(task.adapter)
        if leaves == "plain":
            return Evaluation(self.name, task.round, accuracy_counts(engine, questions, task.config))
        privacy = task.config.privacy
        assert privacy is not None
        release = metrics_release(task, force, privacy)
        with charged(self.ledger, release, force.policy.privacy.epsilon):
            counts = noised_counts(engine, questions, task.config, privacy)
        return Evaluation(self.name, task.round, counts, self._heads(task))

    def _heads(self, task: Task) -> Heads:
        """Heads of ledgers to show; a run without privacy charges nothing, and shows none."""
        if task.config.privacy is None:
            return {}
        return {**heard_of_peers(ledger_folder(self.folder)), self.name: self.ledger.head}


def seconds_per_group(engine: Engine, maker: QuestionMaker, codebook: Codebook, config: RunConfig) -> float:
    """Measure what a group takes at the engine's adapter, on made-up patients.

    The first patient brings in what is loaded late. As many more as a round has, within some seconds, are then computed
    together as a round computes them; where one alone takes long, it is the measure.
    """
    federation, per_patient = config.federation, config.questions.per_patient
    text, exact = CodebookText(codebook, config.questions.view, config.seed), Exact(config, 0, 0, 0)

    def measured(count: int) -> float:
        patients = [replace(text.patient(), id=f"made up {number}") for number in range(count)]
        started = time.monotonic()
        for _ in gradients(engine, maker, patients, config, exact):
            pass
        return (time.monotonic() - started) / (count * per_patient)

    first = measured(1)
    expected = round(federation.population / federation.sites * federation.sampling_rate)
    count = min(expected, _PROBE_PATIENTS, int(_PROBE_SECONDS / (first * per_patient + 1e-9)))
    return measured(count) if count >= 1 else first


def _logged_sum(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    task: Task,
    step: int,
    adapter: Vector,
    log: TrainingLog,
) -> tuple[Integers, RolloutCounts]:
    """Take the sum of a step at an adapter, and write its line into the site's log."""
    watch = StepWatch(next(engine.model.parameters()).device, texts=log.completions > 0)
    engine.set_adapter(adapter)
    mechanism = mechanism_of(task.config, task.round, step, task.attempt)
    total, counted = gradient_sum(engine, maker, patients, task.config, mechanism, watch)
    log.write(watch.entry(task, step, adapter, counted), watch.groups)
    return total, counted


def gradient_sum(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
) -> tuple[Integers, RolloutCounts]:
    """Sum of the sampled patients' gradients at the engine's adapter, in lattice units [size], as it may leave."""
    total = np.zeros(engine.layout.size, dtype=np.int64)
    counted = RolloutCounts()
    for gradient, counts in gradients(engine, maker, mechanism.sample(patients), config, mechanism, watch):
        total = add(total, mechanism.integers(gradient))
        counted += counts
        watch.differentiated(gradient)
    return mechanism.released(total), counted


def local_change(
    engine: Engine, maker: QuestionMaker, patients: Sequence[Patient], task: Task, log: TrainingLog
) -> tuple[Integers, RolloutCounts]:
    """Adapter change after the local steps of fedavg, in lattice units [size].

    The optimizer starts afresh; the divisor of a step is the public number of patients expected at one site.
    """
    config, federation = task.config, task.config.federation
    assert task.adapter is not None
    optimizer = Optimizer(config.optimizer, task.adapter, federation.rounds)
    divisor = federation.population / federation.sites * federation.sampling_rate
    counted = RolloutCounts()
    for step in range(federation.local_steps):
        total, counts = _logged_sum(engine, maker, patients, task, step, optimizer.adapter, log)
        optimizer.step(from_lattice(total, config.gradient_unit) / divisor, task.round)
        counted += counts
    change = optimizer.adapter.astype(np.float64) - task.adapter.astype(np.float64)
    return to_lattice(change, config.lattice.bits), counted
