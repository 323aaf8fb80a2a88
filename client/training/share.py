"""What the first rank of a site says to the others, and what they answer; none of it leaves the site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any

import torch

from client.grpo.counts import RolloutCounts
from client.grpo.log import StepWatch
from client.privacy.mechanism import Mechanism
from client.training.engine import Engine
from common.arrays import Integers, Vector
from common.codebook import Codebook
from common.config import RunConfig
from common.errors import FedReasonError
from common.questions.question import Moment, Patient, QuestionMaker


@dataclass(frozen=True)
class Prepare:
    """Load the model of a run; answered by the `Kind` of the rank."""

    config: RunConfig
    codebook: Codebook


@dataclass(frozen=True)
class Kind:
    """What decides at a rank which bits a patient's gradient has."""

    fedreason: str
    torch: str
    transformers: str
    device: str
    model: str
    threads: int | None
    groups: int | None

    @classmethod
    def of(cls, engine: Engine, config: RunConfig) -> Kind:
        """Return the kind of this process; CPU threads count where the model is on a CPU."""
        device = next(engine.model.parameters()).device
        on_cuda = device.type == "cuda"
        return cls(
            version("fedreason"),
            torch.__version__,
            version("transformers"),
            torch.cuda.get_device_name(device) if on_cuda else device.type,
            engine.layout_sha256(),
            None if on_cuda else torch.get_num_threads(),
            engine.sized(config).decode_groups,
        )

    def unlike(self, other: Kind) -> list[str]:
        """Name what differs."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


@dataclass(frozen=True)
class Share:
    """Compute some of a step's patients at an adapter, with the step's own randomness; answered by a `Part`."""

    config: RunConfig
    adapter: Vector
    mechanism: Mechanism
    maker: QuestionMaker
    patients: Sequence[Patient]
    texts: bool

    @classmethod
    def of(
        cls,
        config: RunConfig,
        adapter: Vector,
        mechanism: Mechanism,
        maker: QuestionMaker,
        patients: Sequence[Patient],
        *,
        texts: bool,
    ) -> Share:
        """Return a share with the records of its patients and of nobody else, who stand in one table with them."""
        return cls(config, adapter, mechanism, maker, [_alone(patient) for patient in patients], texts)


def _alone(patient: Patient) -> Patient:
    later = {name: Moment(dict(moment.values), moment.truth) for name, moment in patient.later.items()}
    return Patient(patient.id, dict(patient.values.items()), later, tuple(map(_alone, patient.visits)))


@dataclass(frozen=True)
class Part:
    """The sum of some patients' integers, what was counted in their rollouts, and what was seen of them."""

    total: Integers
    counted: RolloutCounts
    watch: StepWatch


@dataclass(frozen=True)
class Answer:
    """What came of a message, or what was refused, and the lines that the rank would log."""

    result: Any
    refused: FedReasonError | None
    lines: tuple[str, ...]
