"""Features that give each other away, found by mutual information on a site's own training patients.

What is found is private and stays at the site. With `empirical` choices such features are not shown beside the one
asked for, masked or by a task; for a codebook they are proposals, which a person accepts by writing a leak group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.codebook import Codebook
from common.feature import Feature
from common.questions.question import Patient
from common.stream import Stream

THRESHOLD = 0.5
"""Mutual information in nats above which a feature is not shown beside another (C-Reason, arXiv 2505.02722)."""
BINS = 12
"""Quantiles that a feature's numbers are cut into: somewhat less is found than by the paper's nearest neighbours."""
LEAST_PAIRS = 100
"""Records with both features below which nothing is said of them."""
SHUFFLES = 20
"""Random pairings whose mean information is taken off: what values that tell nothing of each other seem to share."""

MISSING = -1
Codes = NDArray[np.int64]


class Leak(NamedTuple):
    """Two features and what one tells of the other."""

    first: str
    second: str
    nats: float


def leaks(codebook: Codebook, patients: Iterable[Patient], threshold: float = THRESHOLD) -> dict[str, frozenset[str]]:
    """Return for every feature those that share more information with it than the threshold; none has no entry."""
    partners: dict[str, set[str]] = {}
    for leak in found_leaks(codebook, patients, threshold):
        partners.setdefault(leak.first, set()).add(leak.second)
        partners.setdefault(leak.second, set()).add(leak.first)
    return {name: frozenset(group) for name, group in partners.items()}


def proposed_groups(codebook: Codebook, patients: Iterable[Patient], threshold: float = THRESHOLD) -> list[Leak]:
    """Return the leaks that some question of the codebook would still show, the strongest first."""
    questions = [(feature.name, codebook.hidden_for(feature.name)) for feature in codebook.features if feature.asked]
    series = frozenset(feature.name for feature in codebook.features if feature.series)
    questions += [
        (task.feature, codebook.hidden_for_task(task) | (series if task.kind == "later" else frozenset()))
        for task in codebook.tasks
        if task.kind != "consultation"
    ]

    def shown(leak: Leak) -> bool:
        pair = {leak.first, leak.second}
        return any(asked in pair and not pair - {asked} <= hidden for asked, hidden in questions)

    return sorted(filter(shown, found_leaks(codebook, patients, threshold)), key=lambda leak: -leak.nats)


def found_leaks(codebook: Codebook, patients: Iterable[Patient], threshold: float = THRESHOLD) -> Iterator[Leak]:
    """Yield every pair of features that share more than so many nats."""
    records = [dict(record.values.items()) for patient in patients for record in patient.records]
    coded = {
        feature.name: coded_values(feature, [record.get(feature.name) for record in records])
        for feature in codebook.features
        if feature.kind != "text"
    }
    for first, second in combinations(coded, 2):
        nats = shared_nats(coded[first], coded[second], threshold)
        if nats > threshold:
            yield Leak(first, second, nats)


def coded_values(feature: Feature, texts: Sequence[str | None]) -> Codes:
    """Give every text a code: numbers that of their quantile, others one each, MISSING where there is none."""
    known = [text for text in texts if text is not None]
    words = set(feature.words.values()) if feature.kind == "numeric" else set(known)
    code = {word: place for place, word in enumerate(sorted(words))}
    numbers = {text: float(text) for text in known if text not in words}
    if numbers:
        edges = np.unique(np.quantile([numbers[text] for text in known if text in numbers], np.arange(1, BINS) / BINS))
        code |= {text: len(words) + int(np.searchsorted(edges, value, "right")) for text, value in numbers.items()}
    return np.array([MISSING if text is None else code[text] for text in texts], dtype=np.int64)


def shared_nats(first: Codes, second: Codes, threshold: float = 0.0) -> float:
    """Mutual information of two features over the records that have both, less what chance explains.

    Below the threshold the part of chance is left in, being no longer of interest; 0 where too few records have both.
    """
    both = (first != MISSING) & (second != MISSING)
    if both.sum() < LEAST_PAIRS:
        return 0.0
    first, second = _dense(first[both]), _dense(second[both])
    nats = mutual_information(first, second)
    if nats <= threshold:
        return nats
    stream = Stream.named("leaks")
    shuffled = (second[np.argsort(stream.uniforms(len(second)), kind="stable")] for _ in range(SHUFFLES))
    return max(0.0, nats - float(np.mean([mutual_information(first, other) for other in shuffled])))


def mutual_information(first: Codes, second: Codes) -> float:
    """Mutual information in nats of two equally long rows of codes from 0."""
    joint = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    joint += np.bincount(first * joint.shape[1] + second, minlength=joint.size).reshape(joint.shape)
    return max(0.0, _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0)) - _entropy(joint.ravel()))


def _entropy(counts: NDArray[np.float64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _dense(codes: Codes) -> Codes:
    return np.asarray(np.unique(codes, return_inverse=True)[1])
