"""What holds of the parts holds of the whole site: every draw is fresh, every release charged for what it is, before.

A site answers as in its resident process, with a recorder of each draw, charge, use of a record, and byte; a mutation
changes one wire between parts that are each right.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from client.grpo.counts import RolloutCounts
from client.privacy import clip, mechanism
from client.privacy.keystream import Keystream
from client.privacy.ledger import Ledger
from client.privacy.mechanism import Private
from client.privacy.sampling import poisson_sample
from client.training import contribution, metrics, requests, walk
from client.training.contribution import _logged_sum
from client.training.releases import metrics_release
from client.training.states import Attempts, State
from common.arrays import Integers, Vector
from common.collapse import LETTERS
from common.identity.keys import write_private
from common.messages.kinds import Contribution, Evaluation, Task
from common.questions.question import Patient
from common.stream import Stream
from tests.privacy_checks import Check
from tests.whole_site import SIZE, FakeSite, made, pointing, recorded, run_of, task_of

Changes = Mapping[tuple[Any, str], Any]
_FIXED = bytes(range(32))
_STEPS = 3


@contextlib.contextmanager
def _site(changes: Changes, gradient: Callable[[str], Vector] = pointing, **sections: Any) -> Any:
    """Give a fresh site, its run, and the recorder, with a mutation in place."""
    with TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        config = run_of(**sections)
        folder = made(Path(name), config)
        seen = stack.enter_context(recorded(folder, gradient))
        for (place, what), changed in changes.items():
            stack.enter_context(patch.object(place, what, changed))
        yield FakeSite(folder), config, seen


def check_fresh(changes: Changes) -> bool:
    """No key of any stream is used by two releases, be they attempts at one round: coins, rollouts, rounding, noise."""
    with _site(changes, federation={"sampling_rate": 0.9}) as (site, config, seen):
        used: list[set[bytes]] = []
        for number, attempt in ((1, 0), (1, 1), (2, 0)):
            seen.keys.clear()
            reply = seen.ask(site, "train", task_of(config, number, attempt))
            assert isinstance(reply, Contribution)
            used.append(set(seen.keys) - _of_names(site))
            once = all(times == 1 for key, times in seen.keys.items() if key in used[-1])
            if not once:
                return False
        shared = set.intersection(used[0], used[1]) | set.intersection(used[0], used[2])
        return not shared and len(set(seen.rollouts)) == len(seen.rollouts)


def _of_names(site: FakeSite) -> set[bytes]:
    """Return the keys that come of names and may repeat: the split and the test's own gradients."""
    names: set[bytes] = set()
    keyed = Stream.__init__

    def init(stream: Stream, key: bytes) -> None:
        names.add(key)
        keyed(stream, key)

    with patch.object(Stream, "__init__", init):
        site.training(run_of(federation={"sampling_rate": 0.9}))
        for patient in site.patients:
            pointing(patient.id)
    return names


def check_charged_before(changes: Changes) -> bool:
    """When a record is first used for a release, its line is in the ledger, and the attempt's state says so."""
    with _site(changes) as (site, config, seen):
        for number, (kind, attempt) in enumerate((("train", 0), ("train", 1), ("evaluate", 0), ("evaluate", 1)), 1):
            seen.touched.clear()
            seen.ask(site, kind, task_of(config, 1, attempt))
            if not seen.touched or {lines for _, lines in seen.touched} != {number}:
                return False
        return [entry.retry for entry in site.ledger.entries()] == [False, True, False, True]


def check_local_noise(changes: Changes) -> bool:
    """Under fedavg every local step has its noise: with gradients of zero the change is that of all of them."""
    federation = {"protocol": "fedavg", "local_steps": _STEPS}
    optimizer = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "warmup_rounds": 0, "decay": 0.0}
    zero = lambda _: np.zeros(SIZE, dtype=np.float32)  # noqa: E731
    with _site(changes, zero, federation=federation, optimizer=optimizer) as (site, config, seen):
        reply = seen.ask(site, "train", task_of(config))
        assert isinstance(reply, Contribution) and config.privacy is not None
        (entry,) = site.ledger.entries()
        whole = [values for sigma, values in seen.noise if sigma == config.privacy.sigma_units and values.size == SIZE]
        change = -sum((values.astype(np.float64) for values in whole), np.zeros(SIZE)) * config.gradient_unit / 30
        close = np.abs(reply.total * 2.0**-config.lattice.bits - change).max() < 1e-6
        return len(whole) == entry.release.steps == _STEPS and bool(close)


def check_letters(changes: Changes) -> bool:
    """How often each letter was boxed, by which a collapse is seen, leaves no private run, whatever the policy says."""
    with _site(changes) as (site, config, seen):
        path = site.folder / "policy.toml"
        write_private(path, path.read_text().replace('metrics = "noised"', 'metrics = "plain"').encode())
        told = seen.ask(FakeSite(site.folder), "train", task_of(config))
        assert isinstance(told, Contribution) and told.counts
        return not set(LETTERS) & set(told.counts)


def check_counts(changes: Changes) -> bool:
    """Counts hold at most so many questions of a patient, are charged over everybody, and have the noise of that."""
    with _site(changes, federation={"sampling_rate": 0.5}) as (site, config, seen):
        reply = seen.ask(site, "evaluate", task_of(config))
        assert isinstance(reply, Evaluation) and reply.counts is not None and config.privacy is not None
        (entry,) = site.ledger.entries()
        (drawn,) = seen.noise
        asked = reply.counts["all"]["asked"] - int(drawn[1][0])
        release, most = entry.release, config.privacy.metrics_questions
        return (
            max(seen.counted) <= most
            and asked == sum(seen.counted) <= most * len(site.held_out(config))
            and (release.q, release.steps, release.sigma_units) == (1.0, 1, drawn[0])
        )


def check_not_finite(changes: Changes) -> bool:
    """A gradient that is no number counts as zero; what would round it ends by an assertion, and is silence."""
    gradient = lambda _: np.full(SIZE, np.nan, dtype=np.float32)  # noqa: E731
    with _site(changes, gradient) as (site, config, seen):
        reply = seen.ask(site, "train", task_of(config))
        return isinstance(reply, Contribution) and np.array_equal(reply.total, seen.noise[0][1])


# --- What breaks them ---


class _FixedRounding(Private):
    def stream(self, purpose: str, patient: Patient) -> Keystream:
        return Keystream(_FIXED) if purpose == "rounding" else super().stream(purpose, patient)


class _FixedStream(Private):
    def stream(self, purpose: str, patient: Patient) -> Keystream:
        return Keystream.named(3, purpose, patient.id)


class _FixedKey(Private):
    def __init__(self, *stated: Any) -> None:
        super().__init__(*stated)
        self._key = _FIXED.hex()


class _OfNobody(Private):
    """What a patient draws is of the step and not of the patient."""

    def stream(self, purpose: str, patient: Patient) -> Keystream:
        return Keystream.named(self._key, purpose)


class _Replayed(Private):
    """Only rollouts are drawn from a stream of the round."""

    def stream(self, purpose: str, patient: Patient) -> Keystream:
        return Keystream.named(1, patient.id) if purpose == "rollout" else super().stream(purpose, patient)


def _fixed_coins(patients: Sequence[Patient], rate: float) -> list[Patient]:
    return poisson_sample(patients, rate, _FIXED)


_charge = Ledger.charge


def _only_first(ledger: Ledger, release: Any, *, cap: float) -> Any:
    """A retry is taken for the same release."""
    return None if release.attempt else _charge(ledger, release, cap=cap)


class _After(contextlib.AbstractContextManager[None]):
    """Surround the computation of an attempt by a charge at its end, as it was before."""

    pending: Any = None

    def __init__(self, attempts: Attempts, attempt: Any) -> None:
        self._attempts, self._attempt = attempts, attempt

    def __enter__(self) -> None:
        self._attempts.enter(self._attempt, State.CHARGED)
        self._attempts.enter(self._attempt, State.COMPUTING)

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            ledger, release, cap = _After.pending
            _charge(ledger, release, cap=cap)
            self._attempts.enter(self._attempt, State.SENT)


def _later(ledger: Ledger, release: Any, *, cap: float) -> None:
    _After.pending = ledger, release, cap


CHARGED_AFTER: Changes = {(Ledger, "charge"): _later, (walk, "answering"): _After}
"""The charge moved after the work."""


def _first_step_alone(engine: Any, maker: Any, patients: Any, task: Task, step: int, *more: Any) -> Any:
    if step == 0:
        return _logged_sum(engine, maker, patients, task, step, *more)
    with patch.object(Private, "released", lambda _, total: total):
        return _logged_sum(engine, maker, patients, task, step, *more)


def _sampled_counts(task: Task, force: Any, privacy: Any) -> Any:
    return replace(metrics_release(task, force, privacy), q=task.config.federation.sampling_rate)


def _every_question(questions: Any, most: int) -> Any:
    return questions


def _unchecked(gradient: Vector, clip_norm: float, clip_units: int, random: Keystream) -> tuple[Integers, bool]:
    """Clip without a look at whether it is a number."""
    vector = gradient.astype(np.float64)
    norm = float(np.linalg.norm(vector))
    scale = clip_units / max(norm, clip_norm)
    return clip._rounded(vector * scale, norm * scale, clip_units, random), False


def _check(name: str, check: Callable[[Changes], bool], mutations: Mapping[str, Changes]) -> Check:
    broken = {mutation: partial(check, changes) for mutation, changes in mutations.items()}
    return Check(f"wiring: {name}", partial(check, {}), broken)


CHECKS = [
    _check(
        "fresh draws",
        check_fresh,
        {
            "a constant key for rounding": {(mechanism, "Private"): _FixedRounding},
            "a constant key for every step": {(mechanism, "Private"): _FixedKey},
            "one key for all patients of a step": {(mechanism, "Private"): _OfNobody},
            "a constant key for coins": {(mechanism, "poisson_sample"): _fixed_coins},
            "rollouts from a fixed stream": {(mechanism, "Private"): _Replayed},
            "questions and rollouts from a fixed stream": {(mechanism, "Private"): _FixedStream},
            "a constant key for the noise": {
                (mechanism, "discrete_gaussian"): partial(mechanism.discrete_gaussian, key=_FIXED)
            },
        },
    ),
    _check(
        "charged before a record is used",
        check_charged_before,
        {
            "charged after the work": CHARGED_AFTER,
            "retries are not charged": {(Ledger, "charge"): _only_first},
        },
    ),
    _check(
        "noise at every local step",
        check_local_noise,
        {"noise at the first local step alone": {(contribution, "_logged_sum"): _first_step_alone}},
    ),
    _check(
        "counts",
        check_counts,
        {
            "charged at q and not at 1": {(requests, "metrics_release"): _sampled_counts},
            "every question of a patient counts": {(metrics, "islice"): _every_question},
        },
    ),
    _check(
        "letters",
        check_letters,
        {"all counts are told": {(RolloutCounts, "told"): lambda counts, *, private: asdict(counts)}},
    ),
    _check(
        "what is not finite",
        check_not_finite,
        {"the clip does not look": {(mechanism, "clipped"): _unchecked}},
    ),
]
