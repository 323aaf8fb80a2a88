"""Held-out counts under differential privacy: three totals, with the noise over how far one patient moves them."""

from __future__ import annotations

from client.privacy.noise import discrete_gaussian
from common.arrays import Integers
from common.config import PrivacyConfig
from common.messages.kinds import Counts
from common.sums import KINDS

TOTALS = "all"
"""Name under which noised totals travel, in place of an item."""


def noised(totals: Integers, privacy: PrivacyConfig) -> Counts:
    """Add the noise to the three totals."""
    assert privacy.metrics_sigma is not None
    hidden = totals + discrete_gaussian(privacy.metrics_sigma, len(KINDS))
    return {TOTALS: dict(zip(KINDS, map(int, hidden), strict=True))}
