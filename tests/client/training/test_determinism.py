"""Patient by patient or together, no bit of a part depends on who is in the step; a live engine does not grow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import common.decoding.generate
from client.grpo.counts import Rollouts
from client.grpo.log import Watch
from client.privacy.mechanism import Exact
from client.training.contribution import gradient_sum
from client.training.engine import Engine
from client.training.requests import contribute
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Integers, Vector
from common.config import RunConfig
from common.decoding.cache import forked
from common.decoding.determinism import repeatable
from common.decoding.generate import Completions
from common.messages.kinds import Task
from common.model.adapter import trainable
from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream
from simulation.prepare import prepare
from tests.small import shown, small_config
from tests.tuned import in_one_batch

SIZE = 16


class Seen(Watch):
    """Keeps what every patient said, and every patient's gradient."""

    def __init__(self) -> None:
        self.prompts: list[int] = []
        self.completions: list[Completions] = []
        self.gradients: list[Vector] = []

    def rewarded(self, questions: Sequence[Question], rollouts: Rollouts) -> None:
        self.prompts.append(sum(map(len, rollouts.prompts)))
        self.completions.append(rollouts.completions)

    def differentiated(self, gradient: Vector) -> None:
        self.gradients.append(gradient)


def run_of(model: Path, dtype: str, **grpo: Any) -> RunConfig:
    """Everyone takes part; three questions a patient, so that rows of different lengths stand in one batch."""
    config = small_config(
        model,
        questions={"per_patient": 3},
        grpo={"group_size": 4, "max_completion_tokens": 12, "kl": 0.05, **grpo},
        federation={"sampling_rate": 1.0},
    )
    return config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})


def patients() -> list[Patient]:
    """Sixteen, some of whom have a fraction of the others' values, so that prompts differ in length."""
    rows = synthetic.registry("north", SIZE, seed=5)
    everyone = []
    for place, row in enumerate(rows):
        values = list(shown(row).items())
        everyone.append(Patient(row["patient_id"], dict(values[: max(8, len(values) * (1 + place % 4) // 4)])))
    return everyone


def summed(engine: Engine, config: RunConfig, who: Sequence[Patient]) -> tuple[Integers, Seen]:
    """What a site with these patients would send."""
    maker, seen = QuestionMaker(synthetic.codebook(), "core"), Seen()
    total, _ = gradient_sum(engine, maker, who, config, Exact(config, 1, 0, 0), seen)
    return total, seen


def adapter(size: int) -> Vector:
    return (0.2 * (Stream.named("adapter").uniforms(size) - 0.5)).astype(np.float32)


def same_completions(one: Completions, other: Completions) -> bool:
    """Tokens, lengths and log-probabilities alike to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def require_alone_as_among_others(config: RunConfig, device: str = "cpu") -> None:
    """Assert that each of the sixteen says and gives the same bits alone, and that the sums add up."""
    everyone, engine = patients(), Engine(config, None, device)
    engine.set_adapter(adapter(engine.layout.size))
    together, among = summed(engine, config, everyone)
    assert len(set(among.prompts)) > SIZE // 2, "of unequal lengths"
    assert len({gradient.tobytes() for gradient in among.gradients}) == SIZE, "of gradients of their own"
    parts = []
    for place, patient in enumerate(everyone):
        part, alone = summed(engine, config, [patient])
        parts.append(part)
        assert same_completions(alone.completions[0], among.completions[place])
        assert alone.gradients[0].tobytes() == among.gradients[place].tobytes()
    assert np.array_equal(sum(parts), together)
    backwards, _ = summed(engine, config, everyone[::-1])
    assert np.array_equal(backwards, together)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("decode", [{}, {"decode": "together", "decode_groups": 3}], ids=["patient", "together"])
def test_a_patient_alone_gives_the_bits_that_it_gives_among_sixteen(
    small_model: Path, dtype: str, checkpointing: bool, decode: dict[str, Any]
) -> None:
    require_alone_as_among_others(run_of(small_model, dtype, checkpointing=checkpointing, **decode))


def test_decoding_everyone_in_one_plain_batch_breaks_it(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.grpo.sampler.generate_shared", in_one_batch)
    with pytest.raises(AssertionError):
        require_alone_as_among_others(run_of(small_model, "bfloat16", decode="together", decode_groups=32))


# --- On CUDA, as far as a machine without it can tell ---


def flags() -> tuple[bool, bool]:
    """Whether torch is held to deterministic algorithms, and whether it would only warn."""
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.fixture
def _torch_as_before() -> Iterator[None]:
    before, warning = flags()
    yield
    torch.use_deterministic_algorithms(before, warn_only=warning)


@pytest.mark.usefixtures("_torch_as_before")
@pytest.mark.parametrize("before", [(False, False), (True, True)])
def test_algorithms_are_deterministic_while_wanted_and_torch_goes_on_as_before(before: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    for device in ("cuda", "cuda:1"):
        with repeatable(device):
            assert flags() == (True, False), "a warning would leave attention's backward pass in any order"
        assert flags() == before
    with pytest.raises(ZeroDivisionError), repeatable("cuda"):
        raise ZeroDivisionError
    assert flags() == before
    with repeatable("cpu"):
        assert flags() == before


class Flags(Watch):
    """Keeps how torch was set while patients were rolled out and differentiated."""

    def __init__(self) -> None:
        self.seen: set[tuple[bool, bool]] = set()
        self.count = 0

    @contextmanager
    def sampling(self, model: torch.nn.Module) -> Iterator[None]:
        self.seen.add(flags())
        self.count += 1
        yield

    @contextmanager
    def training(self, prompts: Sequence[Sequence[int]], completions: Completions) -> Iterator[None]:
        self.seen.add(flags())
        self.count += 1
        yield


@pytest.mark.usefixtures("_torch_as_before")
@pytest.mark.parametrize("decode", [{}, {"decode": "together"}], ids=["patient", "together"])
def test_patients_are_sampled_and_differentiated_by_deterministic_algorithms(
    small_model: Path, decode: dict[str, Any]
) -> None:
    config, maker = run_of(small_model, "float32", **decode), QuestionMaker(synthetic.codebook(), "core")
    engine, watch = Engine(config, None, "cpu"), Flags()
    engine.device = "cuda"
    gradient_sum(engine, maker, patients()[:2], config, Exact(config, 1, 0, 0), watch)
    assert watch.seen == {(True, False)} and watch.count == 2 + (1 if decode else 2)
    assert flags() == (False, False)


def test_cublas_is_told_before_cuda_is_first_used(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "CUBLAS_WORKSPACE_CONFIG"
    told: list[str | None] = []

    def first_use() -> None:
        told.append(os.environ.get(name))
        raise RuntimeError("no CUDA here")

    monkeypatch.setattr(torch.cuda, "_lazy_init", first_use)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for before in (None, ":16:8"):
        monkeypatch.setenv(name, str(before))
        if before is None:
            monkeypatch.delenv(name)
        with pytest.raises(RuntimeError, match="no CUDA here"):
            Engine(run_of(small_model, "float32"), None, "cuda")
    assert told == [":4096:8", ":16:8"], "what the machine's owner has set stays"


# --- A live engine ---


def memory() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


def grown(model: Path, folder: Path, rounds: int, *, keep: bool) -> tuple[int, int]:
    """Run twenty rounds and then so many more, each from an adapter of its own; bytes in memory after either.

    With `keep` the keys and values of the latter are never let go of.
    """
    config = small_config(
        model,
        grpo={"group_size": 16},
        federation={"sites": 1, "rounds": 1000, "sampling_rate": 0.15},
        simulation={"hospitals": ["north"], "patients": 14, "compare": False},
    )
    site = Workplace(prepare(config, synthetic.codebook(), folder)["north"])
    engine = site.engine(config)
    kept: list[DynamicCache] = []

    def keeping(*arguments: Any) -> DynamicCache:
        kept.append(forked(*arguments))
        return kept[-1]

    sizes = []
    for first, last in ((1, 20), (21, 20 + rounds)):
        for number in range(first, last + 1):
            given = contribute(site, Task(config, number, 0, adapter(engine.layout.size) * (number / 1000)))
            assert given.total.shape == (engine.layout.size,)
            assert {p.dtype for p in trainable(engine.model)} == {torch.float32}
        sizes.append(memory())
        if keep:
            common.decoding.generate.forked = keeping  # type: ignore[attr-defined]
    assert site.engine(config) is engine
    return sizes[0], sizes[1]


@pytest.mark.slow
def test_a_hundred_rounds_leave_one_engine_as_large_as_it_was(small_model: Path, tmp_path: Path) -> None:
    """Each in a process of its own: one that has run other tests holds freed memory, which hides growth."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        before, after = pool.submit(grown, small_model, tmp_path / "whole", 80, keep=False).result()
        assert after < 1.03 * before
        before, after = pool.submit(grown, small_model, tmp_path / "kept", 100, keep=True).result()
        assert after > 1.03 * before, "keys and values that nobody lets go of are seen"
