"""A whole site with an engine that computes next to nothing, and a recorder of what it draws, charges, touches, says.

Gate, walk, states, ledger, mechanism, questions and answers are the real ones: only the model is not there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import client.node.handlers
from client.grpo.counts import RolloutCounts
from client.node.handlers import HANDLERS, answer
from client.privacy import mechanism, totals
from client.privacy.chain import LEDGER, ledger_folder
from client.site.opened import Opened
from client.training import gradients, metrics
from client.training.states import Silent
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Integers, Vector
from common.config import RunConfig
from common.messages.frames import reply_frame
from common.messages.kinds import Refusal, Reply, Task
from common.questions.question import Question
from common.stream import Stream
from simulation.prepare import prepare
from tests.small import small_config

SIZE = 400
CLIP = {"clip_norm": 1.0, "clip_units": 1000, "noise_multiplier": 4.0, "delta": 1e-5, "answer_every": 0.0}
COUNTED = {"metrics_noise_multiplier": 20.0, "metrics_questions": 2}

Gradient = Callable[[str], Vector]


def run_of(name: str = "small", **changes: Any) -> RunConfig:
    """Return a private run for the engine below."""
    sections = {
        "federation": {"sites": 1, "quorum": 1, "population": 30, "sampling_rate": 1.0, "rounds": 10_000},
        "privacy": CLIP | COUNTED,
        "evaluation": {"every": 1, "per_patient": 3},
        "simulation": {"hospitals": ["north"], "patients": 10},
    }
    for section, values in changes.items():
        sections[section] = {**sections.get(section, {}), **values} if isinstance(values, dict) else values
    return small_config(Path("/none"), name=name, **sections)


def made(folder: Path, config: RunConfig | None = None, **policy: Any) -> Path:
    """Write a site folder."""
    made_folder = next(iter(prepare(config or run_of(), synthetic.codebook(), folder).values()))
    path = made_folder / "policy.toml"
    text = path.read_text().replace('metrics = "plain"', 'metrics = "noised"')
    text = text.replace("[privacy]", "".join(f"{k} = {v}\n" for k, v in policy.items()) + "\n[privacy]\nmin_sites = 1")
    path.write_text(text)
    return made_folder


class FakeEngine:
    """What stands in for the model."""

    def __init__(self) -> None:
        self.device = "cpu"
        self.layout = SimpleNamespace(size=SIZE)
        self.model = torch.nn.Linear(1, 1)
        self.policy = SimpleNamespace(model=self.model)
        self.tokenizer = self.sampler = None
        self.broken = False

    def layout_sha256(self) -> str:
        return "ab" * 32

    def set_adapter(self, vector: Vector) -> None:
        assert np.isfinite(vector).all()

    def require_working(self) -> None:
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")


class FakeSite(Workplace):
    """A site whose model is the one above."""

    def __init__(self, folder: Path, opened: Opened | None = None) -> None:
        super().__init__(folder, opened)
        self.fake = FakeEngine()

    def engine(self, config: RunConfig) -> Any:
        return self.fake


def pointing(patient: str) -> Vector:
    """Return a gradient that tells who it is of: shorter than the clip."""
    return (0.01 * Stream.named("gradient", patient).uniforms(SIZE)).astype(np.float32)


@dataclass
class Recorder:
    """What was seen of a site.

    Attributes
    ----------
    keys
        How often each key of a stream was used. Keys that come of names are among them.
    rollouts
        What the rollouts of each patient would have been drawn from.
    noise
        Each vector of noise that was drawn, and its sigma.
    touched
        Each use of a patient's record, and how many lines the ledger had then.
    counted
        How many questions of a patient were answered at once.
    sent
        Every reply, as bytes.
    """

    folder: Path
    gradient: Gradient = pointing
    keys: Counter[bytes] = field(default_factory=Counter)
    rollouts: list[bytes] = field(default_factory=list)
    noise: list[tuple[int, Integers]] = field(default_factory=list)
    touched: list[tuple[str, int]] = field(default_factory=list)
    counted: list[int] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def lines(self) -> int:
        """Count the lines of the ledger on disk."""
        path = ledger_folder(self.folder) / LEDGER
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def ask(self, site: FakeSite, kind: str, task: Task) -> Reply | None:
        """Have a site answer as its resident process does; None is silence."""
        client.node.handlers._sites[site.folder] = site
        try:
            reply = answer(site.folder, HANDLERS[kind], task)
        except Silent:
            return None
        self.sent.append(reply_frame(reply))
        return reply

    def patient_gradient(
        self, model: Any, tokenizer: Any, questions: list[Question], *_: Any, stream: Stream, **__: Any
    ) -> tuple[Vector, RolloutCounts]:
        """Stand in for the rollouts and the training pass of one patient."""
        patient = questions[0].patient
        self.touched.append((patient, self.lines()))
        self.rollouts.append(stream.uniforms(4).tobytes())
        return self.gradient(patient), RolloutCounts(patients=1, questions=len(questions))

    def answer(self, model: Any, tokenizer: Any, questions: list[Question], *_: Any) -> list[Any]:
        """Stand in for the decoding of held-out questions: every answer is right."""
        self.touched.append((questions[0].patient, self.lines()))
        self.gradient(questions[0].patient)
        self.counted.append(len(questions))
        return [SimpleNamespace(chosen=q.answer, forced=q.answer, disagrees=False) for q in questions]


@contextlib.contextmanager
def recorded(folder: Path, gradient: Gradient = pointing) -> Iterator[Recorder]:
    """Record what the site of a folder does."""
    seen = Recorder(folder, gradient)
    keyed, drawn = Stream.__init__, mechanism.discrete_gaussian

    def init(stream: Stream, key: bytes) -> None:
        seen.keys[key] += 1
        keyed(stream, key)

    def noise(sigma: int, size: int, *more: Any) -> Integers:
        values = drawn(sigma, size, *more)
        seen.noise.append((sigma, values))
        return values

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(Stream, "__init__", init))
        stack.enter_context(patch.object(gradients, "patient_gradient", seen.patient_gradient))
        stack.enter_context(patch.object(metrics, "answer", seen.answer))
        stack.enter_context(patch.object(mechanism, "discrete_gaussian", noise))
        stack.enter_context(patch.object(totals, "discrete_gaussian", noise))
        yield seen


def task_of(config: RunConfig, number: int = 1, attempt: int = 0, adapter: Vector | None = None) -> Task:
    """Return a task of a run."""
    return Task(config, number, attempt, np.zeros(SIZE, dtype=np.float32) if adapter is None else adapter)


def refused(reply: Reply | None) -> int | None:
    """Return the number of a refusal."""
    return reply.code if isinstance(reply, Refusal) else None
