"""What happens to patients' gradients on the way to a site's sum: exact and repeatable, or private and never the same.

Both sum integers on a public lattice. Exact: every random choice is keyed by (seed, purpose, patient, round, step,
attempt), so that a patient contributes the same bits wherever the record lives. Private: coins, noise and a key for
each step are drawn from the operating system's randomness; a patient's questions, rollouts and rounding come of that
key and are the patient's own; and each patient's integers are clipped.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from client.privacy.clip import clipped, shortened
from client.privacy.keystream import Keystream
from client.privacy.noise import discrete_gaussian
from client.privacy.sampling import poisson_sample
from client.privacy.spared import Spared
from common.arrays import Integers, Vector
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.lattice import add, to_lattice
from common.logs import logger
from common.questions.question import Patient
from common.stream import Stream

Result = TypeVar("Result")
_log = logger("site")


class Mechanism(Protocol):
    """Turns the gradients of a random part of the patients into one sum."""

    def sample(self, patients: Sequence[Patient]) -> list[Patient]:
        """Return the patients of this step: each by its own coin."""
        ...

    def stream(self, purpose: str, patient: Patient) -> Stream:
        """Return the randomness for one purpose and patient."""
        ...

    def spared(self, compute: Callable[[], Result], works: Callable[[], None]) -> Result | None:
        """Return what is computed for one patient; None, where that may be, for one whose computation failed."""
        ...

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        """Return what one patient adds to the sum, in lattice units [size]."""
        ...

    def released(self, total: Integers) -> Integers:
        """Return the sum as it may leave."""
        ...


class Exact:
    """No privacy: nearest rounding, nothing added, shortened where the lattice states a norm.

    A gradient that is not finite stops the round at this site.

    To leave the patient out instead would give a sum that looks like any other and is not that of the patients.
    """

    def __init__(self, config: RunConfig, round_number: int, step: int, attempt: int) -> None:
        self._config, self._when = config, (round_number, step, attempt)

    def sample(self, patients: Sequence[Patient]) -> list[Patient]:
        """Return the patients whose named coin says so."""
        rate = self._config.federation.sampling_rate
        return [patient for patient in patients if self.stream("coin", patient).uniform() < rate]

    def stream(self, purpose: str, patient: Patient) -> Stream:
        """Return the stream of this name."""
        return Stream.named(self._config.seed, purpose, patient.id, *self._when)

    def spared(self, compute: Callable[[], Result], works: Callable[[], None]) -> Result | None:
        """Return what is computed; what fails stops the round at this site."""
        return compute()

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        """Round to the nearest lattice point.

        Raises
        ------
        FedReasonError
            LATTICE_RANGE where the gradient is not finite, or does not fit.
        """
        if not np.isfinite(gradient).all():
            raise FedReasonError(
                Code.LATTICE_RANGE,
                "A patient's gradient is not finite (NaN or infinite), and nothing was sent.",
                "Look for a diverged run (a lower optimizer.learning_rate), or a base model that overflows its dtype.",
            )
        integers = to_lattice(gradient.astype(np.float64), self._config.lattice.bits)
        if self._config.lattice.clip_norm is None:
            return integers
        return shortened(integers, self._config.clip_units)

    def released(self, total: Integers) -> Integers:
        """Return the sum as it is."""
        return total


class Private:
    """Poisson sampling, one clip per patient, discrete Gaussian noise on the sum, even of nobody.

    A patient whose gradient is not finite or cannot be computed counts as zero, and is told in the site's log: a
    refusal would tell that the patient was there.
    """

    def __init__(self, config: RunConfig, share: int | None = None) -> None:
        assert config.privacy is not None
        self._sigma_units = config.privacy.sigma_units if share is None else share
        self._privacy, self._rate = config.privacy, config.federation.sampling_rate
        self._key = secrets.token_hex()
        self._spared = Spared()

    def sample(self, patients: Sequence[Patient]) -> list[Patient]:
        """Return the patients whose coin says so; nobody can repeat it."""
        return poisson_sample(patients, self._rate)

    def stream(self, purpose: str, patient: Patient) -> Keystream:
        """Return randomness of this patient, this purpose and this step alone, whichever rank computes it."""
        return Keystream.named(self._key, purpose, patient.id)

    def spared(self, compute: Callable[[], Result], works: Callable[[], None]) -> Result | None:
        """Return what is computed, None where it failed; where the machine failed nobody is computed any more."""
        return self._spared(compute, works)

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        """Clip, and round at random."""
        random = self.stream("rounding", patient)
        result, broken = clipped(gradient, self._privacy.clip_norm, self._privacy.clip_units, random)
        if broken:
            _log.warning("a gradient was not finite and counts as zero")
        return result

    def released(self, total: Integers) -> Integers:
        """Add the noise."""
        return add(total, discrete_gaussian(self._sigma_units, total.size))


def mechanism_of(config: RunConfig, round_number: int, step: int, attempt: int, share: int | None = None) -> Mechanism:
    """Return what a run states; `share` is the standard deviation of this site's noise, where the sites share it."""
    return Exact(config, round_number, step, attempt) if config.privacy is None else Private(config, share)
