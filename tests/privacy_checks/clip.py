"""No patient's contribution is longer than the clip norm, in exact integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from client.privacy.clip import clipped, squared_norm
from client.privacy.keystream import Keystream
from common.arrays import Integers, Vector
from common.stream import Stream
from tests.privacy_checks import Check

Contribute = Callable[[Sequence[Vector]], list[Integers]]

CLIP_NORM, CLIP_UNITS = 0.7, 100
QUESTIONS, SIZE = 4, 2048
_UNIT = CLIP_NORM / CLIP_UNITS


def check_clip(contribute: Contribute) -> bool:
    """The integer norms of 1,000 adversarial patients are at most `CLIP_UNITS`, with not a unit's fraction to spare.

    The lattice is coarse: rounding a dense vector of norm C adds 1.7 % to its length.
    """
    contributions = contribute(list(adversaries(1000)))
    return len(contributions) == 1000 and all(
        np.abs(integers.astype(np.float64)).max() <= CLIP_UNITS and squared_norm(integers) <= CLIP_UNITS**2
        for integers in contributions
    )


def adversaries(count: int) -> Iterator[Vector]:
    """Yield gradients by question [questions, size] that are hard to clip, each kind equally often."""
    stream = Stream.named("adversarial patients")
    kinds = list(KINDS.values())
    for i in range(count):
        with np.errstate(over="ignore"):
            yield kinds[i % len(kinds)](stream).astype(np.float32)


def _even(value: float) -> np.ndarray:
    return np.full((QUESTIONS, SIZE), value / QUESTIONS)


def _dense(norm: float, stream: Stream) -> np.ndarray:
    values = stream.uniforms(QUESTIONS * SIZE).reshape(QUESTIONS, SIZE) - 0.5
    return values * norm / np.linalg.norm(values.sum(axis=0))


def _spike(value: float, stream: Stream) -> np.ndarray:
    values = np.zeros((QUESTIONS, SIZE))
    values[:, stream.below(SIZE)] = value / QUESTIONS
    return values


def _one_bad(value: float, stream: Stream) -> np.ndarray:
    values = _dense(CLIP_NORM, stream)
    values[stream.below(QUESTIONS), stream.below(SIZE)] = value
    return values


KINDS: dict[str, Callable[[Stream], np.ndarray]] = {
    "a spike of the clip norm": partial(_spike, CLIP_NORM),
    "a spike far above": partial(_spike, 1e4 * CLIP_NORM),
    "all just below half a unit": lambda _: _even(_UNIT * 0.4999),
    "all just below one and a half units": lambda _: _even(_UNIT * 1.4999),
    "many just above three and a half units, at the norm": lambda _: (
        _even(CLIP_NORM / 816**0.5) * (np.arange(SIZE) < 816)
    ),
    "dense at the norm": partial(_dense, CLIP_NORM),
    "dense above the norm": partial(_dense, 50 * CLIP_NORM),
    "dense below the norm": partial(_dense, 0.999 * CLIP_NORM),
    "questions that point the same way": lambda stream: np.tile(_dense(CLIP_NORM, stream)[:1], (QUESTIONS, 1)),
    "huge": lambda _: _even(3e38),
    "denormal": lambda _: _even(1e-44),
    "zero": lambda _: _even(0.0),
    "not a number": partial(_one_bad, np.nan),
    "infinite": partial(_one_bad, np.inf),
    "minus infinite": partial(_one_bad, -np.inf),
}


def per_patient(patients: Sequence[Vector]) -> list[Integers]:
    """Clip each patient once, after the sum over the questions."""
    with np.errstate(over="ignore", invalid="ignore"):
        return [clipped(patient.sum(axis=0), CLIP_NORM, CLIP_UNITS, Keystream())[0] for patient in patients]


def _per_question(patients: Sequence[Vector]) -> list[Integers]:
    return [
        sum((clipped(question, CLIP_NORM, CLIP_UNITS, Keystream())[0] for question in patient), start=np.int64(0))
        for patient in patients
    ]


def _finite(patients: Sequence[Vector]) -> list[np.ndarray]:
    sums = [patient.astype(np.float64).sum(axis=0) for patient in patients]
    return [total if np.isfinite(total).all() else np.zeros(SIZE) for total in sums]


def _batch_norm(patients: Sequence[Vector]) -> list[Integers]:
    """Scale all by the norm of the batch's mean."""
    sums = _finite(patients)
    norm = float(np.linalg.norm(np.mean(sums, axis=0)))
    with np.errstate(invalid="ignore"):
        return [np.rint(total * (CLIP_UNITS / max(norm, CLIP_NORM))).astype(np.int64) for total in sums]


def _nearest(patients: Sequence[Vector]) -> list[Integers]:
    """Clip in floats, round to nearest, and look no further."""
    return [
        np.rint(total * (CLIP_UNITS / max(float(np.linalg.norm(total)), CLIP_NORM))).astype(np.int64)
        for total in _finite(patients)
    ]


CHECKS = [
    Check(
        "clip",
        partial(check_clip, per_patient),
        {
            "clipped per question": partial(check_clip, _per_question),
            "a batch norm is used": partial(check_clip, _batch_norm),
            "rounded after the clip": partial(check_clip, _nearest),
        },
    )
]
