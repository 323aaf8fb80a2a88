"""Patients are sampled as the accounting says: each by a coin of its own, with probability q."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy import stats

from client.privacy.sampling import poisson_sample
from common.stream import Stream
from tests.privacy_checks import FALSE_ALARM, Check, unpredictable

Sample = Callable[[Sequence[int], float], list[int]]

RATE = 0.2
_PATIENTS, _DRAWS = range(100), 1000


def check_inclusion(sample: Sample) -> bool:
    """Over 1e5 coins inclusion is within 5 standard errors of q, for all patients together and for each."""
    included = _included(sample)
    return all(
        abs(coins.mean() - RATE) <= 5 * (RATE * (1 - RATE) / coins.size) ** 0.5 for coins in (included, *included.T)
    )


def check_batch_size(sample: Sample) -> bool:
    """Batch size varies as a binomial does, from both sides."""
    sizes = _included(sample).sum(axis=1)
    expected = len(_PATIENTS) * RATE
    statistic = np.square(sizes - expected).sum() / (expected * (1 - RATE))
    return bool(2 * min(stats.chi2.cdf(statistic, _DRAWS), stats.chi2.sf(statistic, _DRAWS)) > FALSE_ALARM)


def check_unpredictable(sample: Sample) -> bool:
    """No batch can be repeated."""
    return unpredictable(lambda: np.array(sample(range(1000), 0.5)).tobytes())


def _included(sample: Sample) -> np.ndarray:
    """Who was drawn in each of 1,000 batches [draws, patients]."""
    included = np.zeros((_DRAWS, len(_PATIENTS)))
    for row in included:
        row[sample(_PATIENTS, RATE)] = 1
    return included


def _shuffled(patients: Sequence[int], rate: float) -> list[int]:
    """Cut a fixed-size batch from a shuffled list."""
    return Stream.private().shuffled(patients)[: round(len(patients) * rate)]


def _in_turn() -> Sample:
    """Shuffle once an epoch and hand out fixed-size batches."""
    left: list[int] = []

    def sample(patients: Sequence[int], rate: float) -> list[int]:
        left[:] = left or Stream.private().shuffled(patients)
        batch, left[:] = left[: round(len(patients) * rate)], left[round(len(patients) * rate) :]
        return batch

    return sample


def _other_rate(factor: float, patients: Sequence[int], rate: float) -> list[int]:
    return poisson_sample(patients, rate * factor)


def _one_coin(patients: Sequence[int], rate: float) -> list[int]:
    """Toss one coin for all."""
    return list(patients) if Stream.private().uniform() < rate else []


def _numpy(patients: Sequence[int], rate: float) -> list[int]:
    return [patient for patient in patients if np.random.random() < rate]


def _fixed_seed(patients: Sequence[int], rate: float) -> list[int]:
    return poisson_sample(patients, rate, bytes(32))


CHECKS = [
    Check(
        "sampling: inclusion",
        partial(check_inclusion, poisson_sample),
        {
            "wrong q, a tenth more": partial(check_inclusion, partial(_other_rate, 1.1)),
            "wrong q, a half": partial(check_inclusion, partial(_other_rate, 0.5)),
            "a fixed seed": partial(check_inclusion, _fixed_seed),
        },
    ),
    Check(
        "sampling: batch size",
        partial(check_batch_size, poisson_sample),
        {
            "shuffling": partial(check_batch_size, _shuffled),
            "shuffling once an epoch": partial(check_batch_size, _in_turn()),
            "one coin for all": partial(check_batch_size, _one_coin),
        },
    ),
    Check(
        "sampling: unpredictable",
        partial(check_unpredictable, poisson_sample),
        {
            "np.random": partial(check_unpredictable, _numpy),
            "a fixed seed": partial(check_unpredictable, _fixed_seed),
        },
    ),
]
