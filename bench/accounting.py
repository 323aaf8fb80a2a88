"""What the accountant says for known mechanisms, beside what Opacus is known to say: `python -m bench.accounting`.

Prints JSON. The exit status is 1 where RDP or PRV of a vector is not within 1 % of its own kind, or one batch used for
four steps is not charged as such.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.result import print_result
from common import accounting
from common.accounting import Mechanism

Account = Callable[[Mechanism], float]

DELTA = 1e-5
TOLERANCE = 0.01


class Vector(NamedTuple):
    """A mechanism, and its epsilon at DELTA by Opacus 1.6.0: by RDP at Opacus' own orders, and by PRV.

    Google's dp-accounting says the same RDP within 0.3 %, and 0.01 less than PRV by its privacy loss distributions.
    """

    mechanism: Mechanism
    rdp: float
    prv: float


VECTORS = (
    Vector(Mechanism(1.0, 0.01, 1000), 2.1014, 1.8384),
    Vector(Mechanism(0.8, 0.05, 200), 8.7318, 7.7127),
    Vector(Mechanism(1.2, 0.1, 200), 7.9447, 7.2232),
    Vector(Mechanism(2.0, 0.2, 200), 8.0103, 7.3827),
    Vector(Mechanism(4.0, 1.0, 30), 6.8133, 6.3360),
    Vector(Mechanism(10.0, 1.0, 200), 7.0774, 6.5833),
)
REUSED = Mechanism(1.5, 0.1, 100, reuse=4)
REUSED_EPSILON = 12.58
"""By PRV. Four times as many samples, the wrong count, would give 7.38."""


def by_rdp(mechanism: Mechanism) -> float:
    """Return epsilon at DELTA by RDP, which budgets are enforced on."""
    return accounting.epsilon(accounting.rdp(**mechanism._asdict()), DELTA)


def by_prv(mechanism: Mechanism) -> float:
    """Return epsilon at DELTA by PRV, which is reported."""
    return accounting.prv_epsilon([mechanism], DELTA)


def measured(rdp: Account = by_rdp, prv: Account = by_prv) -> dict[str, Any]:
    """Return epsilon of every vector by RDP and PRV with what is expected, and of the batch that is used again."""
    vectors = [
        {
            "sigma": mechanism.noise_multiplier,
            "q": mechanism.sampling_rate,
            "steps": mechanism.steps,
            "rdp": rdp(mechanism),
            "prv": prv(mechanism),
            "rdp_expected": rdp_expected,
            "prv_expected": prv_expected,
        }
        for mechanism, rdp_expected, prv_expected in VECTORS
    ]
    return {"vectors": vectors, "mu_epsilon": prv(REUSED), "mu_expected": REUSED_EPSILON, "mu_rdp": rdp(REUSED)}


def problems(figures: dict[str, Any]) -> list[str]:
    """Return what is off, in words; empty where all is well."""
    told = []
    for vector in figures["vectors"]:
        for kind in ("rdp", "prv"):
            found, expected = vector[kind], vector[f"{kind}_expected"]
            if not abs(found / expected - 1) <= TOLERANCE:
                told.append(f"sigma {vector['sigma']}, q {vector['q']}: {kind} {found:.4f}, not {expected:.4f}")
    if not abs(figures["mu_epsilon"] - REUSED_EPSILON) <= 0.01:
        told.append(f"a batch used four times: PRV {figures['mu_epsilon']:.2f}, not {REUSED_EPSILON}")
    if not figures["mu_rdp"] >= figures["mu_epsilon"]:
        told.append(f"a batch used four times: RDP {figures['mu_rdp']:.2f} is less than PRV")
    return told


def main() -> None:
    """Print the figures and end with status 1 where any is off."""
    figures = measured()
    for problem in (off := problems(figures)):
        print(problem, file=sys.stderr)
    print_result(figures)
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    main()
