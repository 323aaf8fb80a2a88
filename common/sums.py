"""What a run states about sums of gradients: the lattice they are made on, and what is done for privacy."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from common.toml import Strict

LARGEST_SECURE = 2**31 - 1
"""Largest value of a secure sum, in lattice units."""


ASKED, FREE, FORCED = KINDS = ("asked", "free", "forced")
"""What is counted of held-out questions: those asked, answered rightly free-form, and rightly where a box is forced."""


def is_none(value: object) -> bool:
    """Whether a key is absent: it is then left out of the hash, which is as before there was the key."""
    return value is None


def _is_local(value: object) -> bool:
    return value == "local"


class LatticeConfig(Strict):
    """Sums are sums of integers: one unit is 2^-bits. With `clip_norm` no patient's gradient is longer than that."""

    bits: int = Field(default=40, ge=8, le=60)
    clip_norm: float | None = Field(default=None, gt=0, le=1e9, exclude_if=is_none)


class PrivacyConfig(Strict):
    """Patient-level differential privacy: what every site of the run does to a patient's gradient, and to counts.

    The standard deviation of the noise on a sum is `noise_multiplier` times `clip_norm`, which is `clip_units` steps of
    the private lattice. Each site adds all of it ("local"), or under secure aggregation a share ("distributed"), so
    that it stands in every sum although `colluders` sites tell their shares and `dropouts` are lost. With
    `metrics_noise_multiplier` counts of right answers leave too, of at most `metrics_questions` of a held-out patient.
    How long an answer takes depends on records: a hospital's node sends it when a multiple of `answer_every` seconds
    has passed since it was asked, 0 being at once, for trials, and does nothing else meanwhile.
    """

    clip_norm: float = Field(gt=0, le=1e9)
    clip_units: int = Field(default=11_000, ge=100, le=1_000_000)
    noise_multiplier: float = Field(gt=0, le=1e6)
    delta: float = Field(gt=0, lt=0.1)
    noise: Literal["local", "distributed"] = Field(default="local", exclude_if=_is_local)
    colluders: int = Field(default=0, ge=0)
    dropouts: int = Field(default=0, ge=0)
    metrics_noise_multiplier: float | None = Field(default=None, gt=0, le=1e6)
    metrics_questions: int = Field(default=1, ge=1, le=1_000_000)
    answer_every: float = Field(default=60.0, ge=0, le=3600, allow_inf_nan=False)

    @property
    def sigma_units(self) -> int:
        """Standard deviation of the noise per coordinate of a sum, in lattice units; rounded up."""
        return math.ceil(self.noise_multiplier * self.clip_units)

    @property
    def metrics_sensitivity(self) -> int:
        """Most that one patient changes the totals of the counts by, in the L2 norm; rounded up."""
        return math.ceil(self.metrics_questions * math.sqrt(len(KINDS)))

    @property
    def metrics_sigma(self) -> int | None:
        """Standard deviation of the noise on each total of the counts, rounded up; None where no counts leave."""
        if self.metrics_noise_multiplier is None:
            return None
        return math.ceil(self.metrics_noise_multiplier * self.metrics_sensitivity)
