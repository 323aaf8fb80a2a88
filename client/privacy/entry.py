"""One line of a ledger: what was released, what it costs, and what was spent then.

A line is canonical JSON. RDP stands in it in whole 1e-12 nats, rounded up, so that sums are exact; null is no bound.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from common.identity.keys import canonical
from common.messages.heads import Head

UNIT = 1e-12
"""One unit of RDP in nats."""

Rdp = tuple[int | None, ...]

GRADIENTS = ("fedsgd-local", "fedsgd-shared", "fedavg")
"""Mechanisms that are one part of a round: what is made of the patients' gradients."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """Something noised that is about to leave, as the ledger charges it.

    Parameters
    ----------
    run, round, attempt
        What it answers.
    model_sha256, policy_sha256
        The model it was computed at, the policy that allowed it.
    mechanism
        What it is: "fedsgd-local", "fedsgd-shared", "fedavg", "metrics".
    sigma_units
        Standard deviation of the noise that is guaranteed in what others see, per coordinate, in units of the lattice.
    sensitivity_units
        Most that one patient changes it by, in the L2 norm, in the same units.
    q
        Chance of each patient to be in a sample.
    mu
        Releases computed on each sample.
    steps
        Samples drawn.
    delta
        Of the policy: epsilon is stated at it.
    total_variation
        Distance of all the noise in this release, over its coordinates and steps, from the discrete Gaussian.

    Raises
    ------
    ValueError
        Where a number is out of its range.
    """

    run: str
    round: int
    attempt: int
    model_sha256: str
    policy_sha256: str
    mechanism: str
    sigma_units: int
    sensitivity_units: int
    q: float
    mu: int
    steps: int
    delta: float
    total_variation: float

    def __post_init__(self) -> None:
        counts = (self.sigma_units, self.sensitivity_units, self.mu, self.steps)
        if not (
            all(type(count) is int and count >= 1 for count in counts)
            and 0 < self.q <= 1
            and 0 < self.delta < 1
            and 0 <= self.total_variation < math.inf
        ):
            raise ValueError("the mechanism has a number out of its range")

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise over the sensitivity."""
        return self.sigma_units / self.sensitivity_units

    @property
    def attempted(self) -> tuple[str, int, int, str]:
        """What is computed once: run, round, attempt, and what it is."""
        return self.run, self.round, self.attempt, self.mechanism

    @property
    def subject(self) -> tuple[str, int, str]:
        """What a second charge of is a retry."""
        return self.run, self.round, self.mechanism

    @property
    def part(self) -> list[tuple[str, int, str]]:
        """Subjects of which every charge is an attempt at this part of the round, by whatever protocol."""
        names = GRADIENTS if self.mechanism in GRADIENTS else (self.mechanism,)
        return [(self.run, self.round, name) for name in names]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One charged release.

    Parameters
    ----------
    sequence, previous
        Number of the line, from 1; hash of the line before.
    time
        When it was charged (UTC).
    release
        What was charged.
    retry
        Whether the same round was charged before: again, and in full.
    orders
        Orders of `rdp` and `rdp_sum`.
    rdp
        What this release adds, in UNIT.
    rdp_sum
        All releases up to this one.
    total_variation_sum
        The same of the releases' total variation.
    epsilon
        Spent after this release, at its delta.
    key
        Fingerprint of the key that signed.
    signature
        Over everything above.
    """

    sequence: int
    previous: str
    time: str
    release: Release
    retry: bool
    orders: tuple[float, ...]
    rdp: Rdp
    rdp_sum: Rdp
    total_variation_sum: float
    epsilon: float
    key: str
    signature: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """What is signed."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _ASIDE}
        return {**own, **asdict(self.release)}

    @property
    def line(self) -> bytes:
        """The line of the ledger, without its end."""
        return canonical({**self.document, "signature": self.signature})

    @property
    def head(self) -> Head:
        """Number and hash of this line."""
        return Head(self.sequence, hashlib.sha256(self.line).hexdigest())


_ASIDE = ("release", "signature")
_RELEASE = {field.name for field in fields(Release)}
_ENTRY = {field.name for field in fields(Entry)} - {"release"}


def parsed(line: bytes) -> Entry:
    """Read one line.

    Raises
    ------
    ValueError
        Where it is not, byte for byte, a line that the ledger writes.
    """
    try:
        record = json.loads(line.decode("ascii"))
        if canonical(record) != line or set(record) != _RELEASE | _ENTRY:
            raise ValueError
        own = {name: record[name] for name in _ENTRY}
        own |= {name: tuple(record[name]) for name in ("orders", "rdp", "rdp_sum")}
        entry = Entry(release=Release(**{name: record[name] for name in _RELEASE}), **own)
        if len({len(entry.orders), len(entry.rdp), len(entry.rdp_sum)}) != 1:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("it is not as the ledger writes a line") from None
    return entry


def cost(release: Release, orders: tuple[float, ...] | None = None) -> Rdp:
    """Return the RDP of a release in UNIT, rounded up, at `orders` or else those of the accountant."""
    from common.accounting import ORDERS, rdp

    nats = rdp(
        noise_multiplier=release.noise_multiplier,
        sampling_rate=release.q,
        steps=release.steps,
        reuse=release.mu,
        orders=orders or ORDERS,
    )
    return tuple(math.ceil(value / UNIT) if math.isfinite(value) else None for value in nats.tolist())


def spent(entry: Entry) -> float:
    """Return epsilon after an entry, at the delta of its release."""
    import numpy as np

    from common.accounting import epsilon

    nats = np.array([math.inf if value is None else value * UNIT for value in entry.rdp_sum])
    variation = entry.total_variation_sum
    return epsilon(nats, entry.release.delta, total_variation=variation, orders=entry.orders)
