"""Sums are exact over any split of the patients, and A is public and never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from client.privacy.mechanism import Exact
from client.training import engine as engines
from client.training.contribution import gradient_sum
from client.training.engine import Engine
from client.training.gradients import one_gradient
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.lattice import add, to_lattice
from common.model import base as models
from common.model.adapter import read_adapter
from common.model.base import train_b_alone
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from server.rounds import loop as rounds
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.privacy_checks import Check
from tests.privacy_checks.isolation import model_folder, unequal
from tests.small import small_config

Sum = Callable[[RunConfig, Engine, Sequence[Patient]], NDArray[np.generic]]

SPLITS = 6


@cache
def _engine() -> tuple[RunConfig, Engine]:
    """Return a run of the small model at an adapter that is not zero."""
    config = small_config(model_folder(), federation={"sampling_rate": 1.0})
    engine = Engine(config, None, "cpu")
    generator = torch.Generator().manual_seed(7)
    engine.set_adapter((0.02 * torch.randn(engine.layout.size, generator=generator)).numpy())
    return config, engine


def splits() -> list[list[list[Patient]]]:
    """Return random splits of some patients over 1 to 5 sites, each site in an order of its own."""
    patients, random = unequal(), Stream.named("splits")
    drawn = []
    for number in range(SPLITS):
        sites: list[list[Patient]] = [[] for _ in range(1 + number % 5)]
        for patient in random.shuffled(patients):
            sites[random.below(len(sites))].append(patient)
        drawn.append(sites)
    return drawn


def check_sums(site_sum: Sum) -> bool:
    """The sum of the sites' sums has the same bits over all splits of the patients, and is not zero."""
    config, engine = _engine()
    totals = set()
    for sites in splits():
        parts = [site_sum(config, engine, patients) for patients in sites]
        total = parts[0]
        for part in parts[1:]:
            total = add(total, part) if part.dtype == np.int64 else total + part  # type: ignore[arg-type,operator]
        assert total.any()
        totals.add(total.tobytes())
        if len(totals) > 1:
            return False
    return True


def in_integers(config: RunConfig, engine: Engine, patients: Sequence[Patient]) -> NDArray[np.generic]:
    """Return a site's sum as it leaves."""
    return gradient_sum(engine, _maker(config), patients, config, Exact(config, 1, 0, 0))[0]


def _in_floats(config: RunConfig, engine: Engine, patients: Sequence[Patient]) -> NDArray[np.generic]:
    """Add float32 at the site and send floats."""
    exact, total = Exact(config, 1, 0, 0), np.zeros(engine.layout.size, dtype=np.float32)
    for patient in patients:
        total += one_gradient(engine, _maker(config), patient, config, exact)[0]
    return total


def _rounded_at_the_end(config: RunConfig, engine: Engine, patients: Sequence[Patient]) -> NDArray[np.generic]:
    """Add float32 at the site and round the sum to the lattice."""
    return to_lattice(_in_floats(config, engine, patients).astype(np.float64), config.lattice.bits)


def _maker(config: RunConfig) -> QuestionMaker:
    return QuestionMaker(synthetic.codebook(), config.questions.view)


def check_frozen(train: Callable[[torch.nn.Module], None]) -> bool:
    """Every A is the published matrix before and after a run of three steps, which changes the adapter.

    The run starts from the adapter that the site's model has: B is zero, and A no part of it.
    """
    config = small_config(
        model_folder(), federation={"sites": 1, "quorum": 1}, simulation={"hospitals": ["north"], "compare": False}
    )
    with (
        TemporaryDirectory() as name,
        patch.object(engines, "_ENGINES", engines._Engines()),
        patch.object(models, "train_b_alone", train),
    ):
        site = Workplace(prepare(config, synthetic.codebook(), Path(name))["north"])
        engine = site.engine(config)
        before, start = hash_of_a(engine.model), read_adapter(engine.model)
        with (
            RunStore.opened(Path(name) / "run", config) as store,
            patch.object(rounds, "zero_adapter", lambda size: start),
        ):
            adapter = run_rounds(config, LocalExchange([site], evaluate=False), store)
        engine.set_adapter(adapter)
        assert not np.array_equal(adapter, start)
        return before == hash_of_a(engine.model) == published(engine.model, config.seed)


def hash_of_a(model: torch.nn.Module) -> str:
    """Hash of every A of a model."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def published(model: torch.nn.Module, seed: int) -> str:
    """Hash of what every A should be, from the seed and the names alone."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            digest.update(name.encode() + models.public_signs(seed, name, *parameter.shape).numpy().tobytes())
    return digest.hexdigest()


def _a_too(model: torch.nn.Module) -> None:
    """Leave A trainable, as peft does."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


CHECKS = [
    Check(
        "LoRA: sums",
        partial(check_sums, in_integers),
        {
            "sums in float": partial(check_sums, _in_floats),
            "rounded after a sum in float": partial(check_sums, _rounded_at_the_end),
        },
    ),
    Check("LoRA: A", partial(check_frozen, train_b_alone), {"A trained": partial(check_frozen, _a_too)}),
]
