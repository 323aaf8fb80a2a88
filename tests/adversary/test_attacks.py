"""What a dishonest coordinator sees with a patient there and without: the same kinds of answers, each one charged.

Every attack is tried with its guard removed too, and then it tells the two apart: it would be noticed if it worked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.node import handlers
from client.privacy import mechanism, validity
from client.privacy.mechanism import Private
from client.privacy.spared import Spared
from client.site.exclusions import EXCLUSIONS_FILE
from client.training import contribution, gate
from common.arrays import Vector
from common.config import RunConfig
from common.errors import Code
from common.lattice import to_lattice
from common.messages.kinds import Refusal
from tests.adversary.failures import Changes, bare, fails, kind_of, no_numbers
from tests.adversary.machine import changed
from tests.privacy_checks.wiring import _unchecked
from tests.whole_site import SIZE, FakeSite, made, pointing, recorded, run_of, task_of

TIMES = 6


def _huge() -> Vector:
    return np.full(SIZE, 3e38, dtype=np.float32)


def _bare_counts(_: Spared, compute: Callable[[], Any], works: Callable[[], None]) -> Any:
    return compute()


@dataclass(frozen=True)
class Attack:
    """Something that a patient's record decides, or may decide, on its way out.

    Attributes
    ----------
    target
        What is computed for the patient whose presence is asked for, in place of a gradient.
    guard
        What removes the guard.
    """

    kind: str
    target: Callable[[], Vector]
    guard: Changes
    sections: dict[str, Any] = field(default_factory=dict)


ATTACKS = {
    "the sampler fails": Attack("train", fails(IndexError), {(Private, "spared"): bare}),
    "memory does not suffice": Attack("train", fails(MemoryError), {(Private, "spared"): bare}),
    "the gradient is no number": Attack("train", no_numbers, {(mechanism, "clipped"): _unchecked}),
    "the sampler fails in a local step": Attack(
        "train",
        fails(RuntimeError),
        {(Private, "spared"): bare},
        {"federation": {"protocol": "fedavg", "local_steps": 2}},
    ),
    "an answer to a held-out question fails": Attack(
        "evaluate", fails(ValueError), {(Spared, "__call__"): _bare_counts}
    ),
}


def outcomes(attack: Attack, present: bool, changes: Changes) -> tuple[list[str], int]:
    """Return what comes of asking a few times, and how many lines the ledger then has."""
    config = run_of(**attack.sections)
    with tempfile.TemporaryDirectory() as name, changed(changes):
        folder = made(Path(name), config)
        site = FakeSite(folder)
        target = (site.training(config) if attack.kind == "train" else site.held_out(config))[0].id
        (folder / EXCLUSIONS_FILE).write_text("" if present else f"{target}\n")

        def gradient(patient: str) -> Vector:
            return attack.target() if patient == target else pointing(patient)

        with recorded(folder, gradient) as seen:
            told = [seen.ask(site, attack.kind, task_of(config, number)) for number in range(1, TIMES + 1)]
            assert not any(b"SENTINEL" in content for content in seen.sent)
        return [kind_of(reply) for reply in told], seen.lines()


@pytest.mark.parametrize("name", ATTACKS)
def test_with_a_patient_and_without_the_same_is_answered_and_charged(name: str) -> None:
    attack = ATTACKS[name]
    there, gone = (outcomes(attack, present, {}) for present in (True, False))
    assert there == gone
    assert len(set(there[0])) == 1 and there[1] == TIMES, "and all of it is charged"


@pytest.mark.parametrize("name", ATTACKS)
def test_without_its_guard_the_attack_works(name: str) -> None:
    attack = ATTACKS[name]
    assert outcomes(attack, True, attack.guard) != outcomes(attack, False, attack.guard)


# --- Settings and adapters that nobody honest sends ---


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"grpo": {"temperature": 0.01}}, Code.POLICY_REFUSED),
        ({"grpo": {"top_p": 1e-12}}, Code.POLICY_REFUSED),
        ({"grpo": {"group_size": 10**7}}, Code.POLICY_REFUSED),
        ({"questions": {"per_patient": 10**7}}, Code.POLICY_REFUSED),
        ({"grpo": {"max_completion_tokens": 10**7}}, Code.POLICY_REFUSED),
        ({"federation": {"rounds": 10**7}}, Code.POLICY_REFUSED),
        ({"privacy": {"clip_norm": 1e-40}}, Code.DP_REFUSED),
        ({"lattice": {"bits": 60}, "federation": {"protocol": "fedavg"}}, Code.DP_REFUSED),
    ],
)
def test_hostile_settings_are_refused_before_a_record_is_used(
    tmp_path: Path, sections: dict[str, Any], code: Code
) -> None:
    folder, config = made(tmp_path), run_of(**sections)
    strict = {"max_completion_tokens = 1000000": "max_completion_tokens = 2000"}
    for key in ("min_temperature", "min_top_p", "max_group_size", "max_questions", "max_rounds"):
        strict |= {line: "" for line in (folder / "policy.toml").read_text().splitlines() if line.startswith(key)}
    text = (folder / "policy.toml").read_text()
    for old, new in strict.items():
        assert old in text
        text = text.replace(old, new)
    if code is Code.DP_REFUSED:  # so that nothing but the mechanism itself refuses
        text = text.replace("[privacy]", "max_rounds = 1000000\n[privacy]")
    (folder / "policy.toml").write_text(text)
    with recorded(folder) as seen:
        for kind in ("train", "evaluate"):
            assert kind_of(seen.ask(FakeSite(folder), kind, task_of(config))) == f"E{int(code)}"
    assert not seen.touched and not seen.lines()


def _overflowing(bits: int) -> RunConfig:
    optimizer = {"name": "sgd", "learning_rate": 1e6, "momentum": 0.0, "warmup_rounds": 0, "decay": 0.0}
    return run_of(federation={"protocol": "fedavg", "local_steps": 3}, optimizer=optimizer, lattice={"bits": bits})


def _fedavg(changes: Changes, bits: int) -> list[str]:
    config = _overflowing(bits)
    with tempfile.TemporaryDirectory() as name, changed(changes):
        folder = made(Path(name), config)
        with recorded(folder, lambda _: _huge()) as seen:
            site = FakeSite(folder)
            told = [kind_of(seen.ask(site, "train", task_of(config, number))) for number in range(1, TIMES + 1)]
        assert seen.lines() == told.count("Contribution") + told.count("silence")
        return told


def test_a_change_of_local_steps_that_leaves_the_lattice_is_clamped_and_never_refused() -> None:
    assert _fedavg({}, 47) == ["Contribution"] * TIMES
    unguarded: Changes = {
        (contribution, "clamped_to_lattice"): to_lattice,
        (contribution, "in_range"): lambda adapter: adapter,
    }
    assert set(_fedavg(unguarded, 47)) != {"Contribution"}


def test_a_lattice_that_honest_changes_could_leave_is_refused_when_the_run_is_configured() -> None:
    assert _fedavg({}, 60) == ["E841"] * TIMES
    assert "E841" not in _fedavg({(validity, "LARGEST"): 2.0**200}, 60)


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_an_adapter_at_which_numbers_overflow_costs_nothing_and_tells_nothing(tmp_path: Path, value: float) -> None:
    """The attack that worked: at such adapters sampling failed where somebody could be asked, uncharged."""
    folder, config = made(tmp_path), run_of(grpo={"top_p": 0.9})
    adapter = np.full(SIZE, value, dtype=np.float32)
    with recorded(folder) as seen:
        site = FakeSite(folder)
        everybody = [patient.id for patient in site.patients]
        for opted_out in ([], everybody[:3], everybody):
            (folder / EXCLUSIONS_FILE).write_text("".join(f"{each}\n" for each in opted_out))
            assert kind_of(seen.ask(site, "train", task_of(config, adapter=adapter))) == "E404"
        assert not seen.touched and not seen.lines()
        with changed({(gate, "require_adapter_in_range"): lambda task: None}):
            assert kind_of(seen.ask(site, "train", task_of(config, adapter=adapter))) != "E404"


# --- What is wrong with a registry ---


def _doubled(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")


def _empty(path: Path) -> None:
    path.write_text(path.read_text().splitlines()[0] + "\n")


def _opened(folder: Path, changes: Changes) -> set[bytes]:
    told = set()
    for spoil in (_doubled, _empty, Path.unlink):
        with tempfile.TemporaryDirectory(dir=folder) as name, changed(changes):
            site = made(Path(name))
            spoil(site / "registry.csv")
            reply = handlers.answer(site, handlers.HANDLERS["train"], task_of(run_of()))
            assert isinstance(reply, Refusal)
            told.add(repr(reply).encode())
    return told


def test_whatever_is_wrong_with_a_registry_is_one_number(tmp_path: Path) -> None:
    assert _opened(tmp_path, {}) == {repr(Refusal("north", int(Code.SITE_CLOSED))).encode()}
    assert len(_opened(tmp_path, {(handlers, "number_of"): lambda error: int(error.code)})) == 3
