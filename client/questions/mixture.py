"""A mixture of three normal distributions in one dimension, fitted by expectation and maximisation.

It starts from k-means and ends where scikit-learn's GaussianMixture does, whose defaults C-Reason used (arXiv
2505.02722), but nothing in it is drawn: equal values give equal parameters, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COMPONENTS = 3
VARIANCE_FLOOR = 1e-6
"""Added to every variance, so that no component shrinks to a point."""
TOLERANCE = 1e-3
"""Gain of the mean log-likelihood below which the fit ends."""
MOST_STEPS = 100

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """Weight, mean and standard deviation of every component."""

    weights: Vector
    means: Vector
    deviations: Vector

    def responsibilities(self, value: float) -> Vector:
        """Probability of every component, given a value; however far out the value is, they add up to 1."""
        logs = self.log_densities(np.array([value]))[0]
        shares: Vector = np.exp(logs - np.logaddexp.reduce(logs))
        return shares

    def log_densities(self, values: Vector) -> Vector:
        """Logarithm of weight times density; shape (values, components)."""
        distance = (values[:, None] - self.means) / self.deviations
        logs: Vector = np.log(self.weights) - distance**2 / 2 - np.log(self.deviations) - np.log(2 * np.pi) / 2
        return logs


def fitted_mixture(values: Sequence[float], counts: Sequence[int]) -> Mixture:
    """Fit the mixture to distinct values, at least as many as components, and how often each was seen."""
    return _fitted(np.asarray(values, dtype=np.float64), np.asarray(counts))


def _fitted(values: Vector, counts: NDArray[np.int64]) -> Mixture:
    mixture = _maximised(values, counts, np.eye(COMPONENTS)[_nearest_centres(values, counts)])
    before = -np.inf
    for _ in range(MOST_STEPS):
        logs = mixture.log_densities(values)
        totals = np.logaddexp.reduce(logs, axis=1)
        mixture = _maximised(values, counts, np.exp(logs - totals[:, None]))
        likelihood = float(np.average(totals, weights=counts))
        if abs(likelihood - before) < TOLERANCE:
            break
        before = likelihood
    return mixture


def _maximised(values: Vector, counts: NDArray[np.int64], shares: Vector) -> Mixture:
    """Return the mixture that fits best, where every value belongs to the components by these shares."""
    weighted = counts[:, None] * shares
    mass = weighted.sum(axis=0) + 10 * np.finfo(np.float64).eps
    means = weighted.T @ values / mass
    variances = (weighted * (values[:, None] - means) ** 2).sum(axis=0) / mass + VARIANCE_FLOOR
    return Mixture(mass / mass.sum(), means, np.sqrt(variances))


def _nearest_centres(values: Vector, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cluster of every value by k-means, begun at quantiles of the distinct values."""
    centres = np.quantile(values, (np.arange(COMPONENTS) + 0.5) / COMPONENTS)
    nearest: NDArray[np.int64] = np.full(len(values), -1)
    while True:
        before, nearest = nearest, np.abs(values[:, None] - centres).argmin(axis=1)
        if np.array_equal(before, nearest):
            return nearest
        mass = np.bincount(nearest, weights=counts, minlength=COMPONENTS)
        sums = np.bincount(nearest, weights=counts * values, minlength=COMPONENTS)
        centres = np.where(mass > 0, sums / np.maximum(mass, 1), centres)
