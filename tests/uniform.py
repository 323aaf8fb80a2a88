"""Whether the words of a masked sum look like chance, as they must to whoever lacks the masks."""

from __future__ import annotations

import numpy as np
from scipy import stats

from common.secagg.masks import Residues
from tests.privacy_checks import FALSE_ALARM

_EXPECTED = 5
"""Words a bin at least: with fewer chi-squared is no longer what it is said to be."""


def looks_uniform(words: Residues, *, plain: Residues | None = None) -> bool:
    """Hold words against the uniform distribution: by bytes, and by their upper, lower and differing bits.

    Chi-squared, a false alarm in a million each.

    Parameters
    ----------
    words
        A masked sum.
    plain
        The sum, where it is known: one word in 2^32 stays as it was by chance, so two that did are too many.
    """
    bits = 8 * words.itemsize
    most = min(16, int(np.log2(max(2, len(words) // _EXPECTED))))
    upper, lower = words >> np.array(bits - most, words.dtype), words & np.array((1 << most) - 1, words.dtype)
    differences = (words[1:] - words[:-1]) >> np.array(bits - most, words.dtype)
    groups = [(words.view(np.uint8), 256), (upper, 1 << most), (lower, 1 << most), (differences, 1 << most)]
    told = [stats.chisquare(np.bincount(group.astype(np.int64), minlength=size)).pvalue for group, size in groups]
    untouched = 0 if plain is None else int(np.count_nonzero(words == plain))
    return untouched < 2 and all(value > FALSE_ALARM for value in told)
