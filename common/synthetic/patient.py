"""Core of a synthetic patient: physiology driven by a latent severity, and who chose the treatment.

The public patient's treatment is any entry of the guideline's short list, all alike. The local one follows the
practice that the hospitals share and no public text contains.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from random import Random

from common.synthetic.codebook import (
    CORE,
    DRUGS,
    FLUID_CUTS,
    FLUIDS,
    FOCI,
    INTERVAL_CUTS,
    INTERVALS,
    band,
    codebook,
)

_PATHOGENS = {
    "lung": ("pneumococcus", "haemophilus", "pseudomonas"),
    "abdomen": ("ecoli", "bacteroides", "enterococcus"),
    "urine": ("proteus", "klebsiella", "ecoli"),
    "blood": ("saureus", "acinetobacter", "epidermidis"),
    "skin": ("pyogenes", "saureus", "pseudomonas"),
}
"""Pathogens of each focus of infection, the commonest first."""
_COMMONNESS = (4, 3, 3)
_ANTIBIOGRAM = {
    "acinetobacter": "colistin",
    "bacteroides": "meropenem",
    "ecoli": "gentamicin",
    "enterococcus": "linezolid",
    "epidermidis": "linezolid",
    "haemophilus": "levofloxacin",
    "klebsiella": "meropenem",
    "pneumococcus": "ceftriaxone",
    "proteus": "levofloxacin",
    "pseudomonas": "gentamicin",
    "pyogenes": "ceftriaxone",
    "saureus": "vancomycin",
}
_ADHERENCE = 0.9


def public_patient(random: Random) -> dict[str, str]:
    """Return the core values of a patient for public text, as shown; treatment drawn evenly from the short lists."""
    values, _ = physiology(random)
    for item in codebook().short_lists:
        values[item.feature] = random.choice(item.options(values))
    return {name: values[name] for name in CORE}


def local_treatment(random: Random, values: dict[str, str]) -> dict[str, str]:
    """Treatment by the hospitals' shared practice; one choice in ten is any entry of the whole menu."""
    practice = {
        "antibiotic": (_ANTIBIOGRAM[values["pathogen"]], DRUGS),
        "antibiotic_interval": (INTERVALS[band(float(values["creatinine"]), INTERVAL_CUTS)], INTERVALS),
        "fluid_volume": (FLUIDS[band(float(values["lactate"]), FLUID_CUTS)], FLUIDS),
    }
    return {
        name: first if random.random() < _ADHERENCE else random.choice(menu) for name, (first, menu) in practice.items()
    }


def physiology(
    random: Random,
    foci: Sequence[float] | None = None,
    severity_shift: float = 0.0,
    age_shift: float = 0.0,
    pathogens: Collection[str] = tuple(_ANTIBIOGRAM),
) -> tuple[dict[str, str], float]:
    """Draw the core values before treatment, as shown, and the latent severity (mean 0.2 plus shift, deviation 1).

    Every focus that is drawn must have one of the `pathogens`; no other comes up.
    """
    severity = random.gauss(0.2 + severity_shift, 1.0)
    focus = random.choices(FOCI, weights=foci or [1] * len(FOCI))[0]
    platelets = _grid(math.exp(random.gauss(5.0 - 0.35 * severity, 0.55)), 10, 10, 400)
    bilirubin = math.exp(random.gauss(0.1 + 0.35 * severity, 0.8))
    bilirubin = _grid(bilirubin, 0.2, 0.2, 4) if bilirubin < 4 else _grid(bilirubin, 1, 4, 16)
    creatinine = _grid(math.exp(random.gauss(0.35 + 0.35 * severity, 0.6)), 0.2, 0.4, 6)
    gcs = _grid(random.gauss(13.2 - 1.8 * severity, 2.2), 1, 3, 15)
    pf_ratio = _grid(random.gauss(270 - 70 * severity, 70), 10, 50, 450)
    numbers = {
        "age": _grid(random.gauss(64 + age_shift + 3 * severity, 14), 5, 20, 95),
        "map": _grid(random.gauss(70 - 8 * severity, 7), 2, 36, 104),
        "gcs": gcs,
        "lactate": _grid(math.exp(random.gauss(0.8 + 0.35 * severity, 0.5)), 0.2, 0.6, 8),
        "platelets": platelets,
        "creatinine": creatinine,
        "bilirubin": bilirubin,
        "pf_ratio": pf_ratio,
    }
    values = {name: codebook().by_name[name].number(number) for name, number in numbers.items()}
    values |= {"sex": random.choice(["male", "female"]), "focus": focus}
    here = [weight * (name in pathogens) for name, weight in zip(_PATHOGENS[focus], _COMMONNESS, strict=True)]
    values["pathogen"] = random.choices(_PATHOGENS[focus], weights=here)[0]
    values |= {
        "sofa_coagulation": str(band(-platelets, (-149, -99, -49, -19))),
        "sofa_liver": str(band(bilirubin, (1.2, 2.0, 6.0, 12.0))),
        "sofa_renal": str(band(creatinine, (1.2, 2.0, 3.5, 5.0))),
        "sofa_cns": str(band(-gcs, (-14, -12, -9, -5))),
        "sofa_respiratory": str(band(-pf_ratio, (-399, -299, -199, -99))),
    }
    return values, severity


def _grid(value: float, step: float, low: float, high: float) -> float:
    """Nearest multiple of `step` to the value held within bounds; one decimal at most."""
    return round(round(min(max(value, low), high) / step) * step, 1)
