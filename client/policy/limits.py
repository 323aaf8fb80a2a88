"""What a policy demands of private runs, and who counts as one patient."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from common.codebook import ROW
from common.config import Positive
from common.toml import Strict

Count = Annotated[int, Field(ge=0)]


class PrivacyLimits(Strict):
    """What a run must do to be private enough for this site.

    Parameters
    ----------
    required
        Whether only differentially private runs may use the records. Left out: yes, unless `metrics` is "plain".
    epsilon
        Most that the ledger lets all runs together spend on a patient, over the life of the site.
    delta
        The delta of that cap, and the largest that a run may state.
    max_clip_norm
        Largest norm of one patient's gradient.
    min_noise_multiplier
        Least standard deviation of the noise, in clip norms. With the default one step over everybody costs an epsilon
        of 8 at delta 1e-5 (Balle and Wang 2018, Improving the Gaussian Mechanism, theorem 8). Holds for noised counts
        too.
    max_sampling_rate
        Largest chance of a patient to take part in a step.
    max_steps
        Noised steps of one run.
    min_answer_every
        Least interval, in seconds, at whose multiples answers leave: how long an answer takes tells of a record.
    min_colluders, min_dropouts
        Sites that put their knowledge together, or fail to reply, that a run must at least allow for in the noise its
        sites share. Compared for fedsgd: a site of fedavg shares no noise, it adds all of it.
    min_sites
        Fewest sites that make a round; a secure sum of fewer is not opened either. Left out: 3 for a private run and 5
        for another; 1 where `metrics` is "plain".
    secure_aggregation
        Whether only runs may use the records whose coordinator learns the sum over the sites and no site's own part.
    shared_noise
        Whether a site may add only its share of a run's noise (`privacy.noise` "distributed"): its patients then rely
        on the other sites too.
    """

    required: bool | None = None
    epsilon: float = Field(default=8.0, gt=0)
    delta: float = Field(default=1e-5, gt=0, lt=0.1)
    max_clip_norm: float = Field(default=1.0, gt=0)
    min_noise_multiplier: float = Field(default=0.6, ge=0)
    max_sampling_rate: float = Field(default=1.0, gt=0, le=1)
    max_steps: Positive = 100
    min_answer_every: float = Field(default=10.0, ge=0)
    min_colluders: Count = 0
    min_dropouts: Count = 0
    min_sites: int | None = Field(default=None, ge=1)
    secure_aggregation: bool = False
    shared_noise: bool = False


Fold = Literal["case", "blanks", "zeros", "decimals"]
FOLDED: tuple[Fold, ...] = ("case", "blanks", "zeros", "decimals")
"""What two ways to write an identifier may differ by and still be one patient, as client/registry/folding.py has it."""


class PatientUnit(Strict):
    """Who a patient is, to whom privacy is promised.

    Parameters
    ----------
    column
        Column of the registry that tells patients apart, not rows or visits. Left out: no private run is accepted.
    fold
        What two ways to write one identifier may differ by: capitals, blanks around, zeros in front, a whole number's
        `.0`. This version does all of it and nothing else; under a policy that says otherwise no run is accepted.
    """

    column: str | None = Field(default=None, min_length=1)
    fold: tuple[Fold, ...] = FOLDED

    @field_validator("column")
    @classmethod
    def _is_a_column(cls, value: str | None) -> str | None:
        if value is not None and (value == ROW or not value.strip()):
            raise ValueError(f"{value!r} is no column: rows are not patients")
        return value
