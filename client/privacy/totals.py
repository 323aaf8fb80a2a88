"""Held-out counts under differential privacy: three totals, how far one patient moves them, and the noise over that."""

from __future__ import annotations

import math

from client.privacy.noise import discrete_gaussian
from common.arrays import Integers
from common.config import PrivacyConfig
from common.messages.kinds import Counts

TOTALS = "all"
"""Name under which noised totals travel, in place of an item."""

KINDS = ("asked", "free", "forced")
"""What is counted, with noise or without."""


def sensitivity(privacy: PrivacyConfig) -> int:
    """Most that one patient changes the three totals by, in the L2 norm, rounded up."""
    return math.ceil(privacy.metrics_questions * math.sqrt(len(KINDS)))


def metrics_sigma(privacy: PrivacyConfig) -> int:
    """Return the standard deviation of the noise on each total, rounded up."""
    assert privacy.metrics_noise_multiplier is not None
    return math.ceil(privacy.metrics_noise_multiplier * sensitivity(privacy))


def noised(totals: Integers, privacy: PrivacyConfig) -> Counts:
    """Add the noise to the three totals."""
    hidden = totals + discrete_gaussian(metrics_sigma(privacy), len(KINDS))
    return {TOTALS: dict(zip(KINDS, map(int, hidden), strict=True))}
