"""The synthetic hospitals: who comes, how ill, how resistant, and what is measured there."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from random import Random

from common.errors import Code, FedReasonError
from common.synthetic.codebook import CORE, SHORT_LIST, codebook
from common.synthetic.patient import local_treatment, physiology
from common.synthetic.record import Record, complete


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """Profile of a hospital.

    Parameters
    ----------
    foci
        Weights of the infection foci: lung, abdomen, urine, blood, skin.
    pathogens
        Those that its patients have; each focus with a weight has one of them.
    severity
        Shift of the latent severity, in its standard deviations.
    age
        Shift of the mean age, in years.
    kind, beds
        Shown as the hospital's type and size.
    resistance
        Shift of the log-odds that a pathogen is resistant.
    gaps
        Multiplier of the chance that a cell is missing.
    unmeasured
        Features that the hospital never records.
    """

    foci: tuple[float, float, float, float, float]
    pathogens: frozenset[str] = frozenset(SHORT_LIST)
    severity: float
    age: float
    kind: str
    beds: int
    resistance: float
    gaps: float
    unmeasured: frozenset[str] = frozenset()


HOSPITALS = {
    "north": Hospital(
        foci=(7, 0, 0, 0, 3),
        pathogens=frozenset({"pneumococcus", "haemophilus", "pseudomonas", "pyogenes"}),
        severity=-0.7,
        age=3,
        kind="community",
        beds=280,
        resistance=-0.6,
        gaps=1.6,
        unmeasured=frozenset({"procalcitonin", "d_dimer", "fibrinogen", "capillary_refill"}),
    ),
    "south": Hospital(
        foci=(0, 5, 5, 0, 0),
        pathogens=frozenset({"ecoli", "bacteroides", "klebsiella", "proteus"}),
        severity=0.2,
        age=0,
        kind="general",
        beds=760,
        resistance=0.3,
        gaps=1.0,
        unmeasured=frozenset({"d_dimer", "frailty"}),
    ),
    "west": Hospital(
        foci=(0, 2, 0, 7, 1),
        pathogens=frozenset({"saureus", "acinetobacter", "epidermidis", "enterococcus"}),
        severity=1.1,
        age=-2,
        kind="university",
        beds=1450,
        resistance=0.8,
        gaps=0.5,
    ),
    "east": Hospital(
        foci=(3, 2, 5, 0.5, 0.5),
        severity=-0.2,
        age=6,
        kind="general",
        beds=520,
        resistance=0.0,
        gaps=1.2,
        unmeasured=frozenset({"procalcitonin", "base_excess"}),
    ),
    "coast": Hospital(
        foci=(1, 3, 0.5, 1, 5),
        severity=0.5,
        age=-5,
        kind="university",
        beds=980,
        resistance=0.5,
        gaps=0.8,
        unmeasured=frozenset({"minutes_to_fluids"}),
    ),
}
"""Profiles by name; north, south and west are the demo's, and share no pathogen."""

_GAP = 0.03
_GAPS = {
    "procalcitonin": 0.25,
    "d_dimer": 0.35,
    "fibrinogen": 0.3,
    "base_excess": 0.15,
    "albumin": 0.15,
    "inr": 0.12,
    "capillary_refill": 0.25,
    "frailty": 0.2,
    "height": 0.15,
    "urine_output": 0.12,
    "lactate_24h": 0.2,
    "minutes_to_fluids": 0.15,
    "hospital_type": 0.0,
    "hospital_beds": 0.0,
    "hospital_outcome": 0.0,
}
"""Chance that a cell is missing, where it is not the usual one."""


def registry(hospital: str, patients: int, seed: int) -> list[dict[str, str]]:
    """Return the registry of a hospital as CSV cells by column, '' where missing; the same for equal arguments.

    Raises
    ------
    FedReasonError
        Where there is no such hospital.
    """
    if hospital not in HOSPITALS:
        raise FedReasonError(
            Code.CONFIG_VALUE, f"there is no synthetic hospital '{hospital}'.", f"Choose one of {', '.join(HOSPITALS)}."
        )
    random = Random(f"synthetic registry {hospital} {seed}")
    return [
        {codebook().patient: f"{hospital}-{seed}-{number:05d}", **_row(random, HOSPITALS[hospital])}
        for number in range(1, patients + 1)
    ]


def write_registry(folder: Path, hospital: str, patients: int, seed: int) -> None:
    """Write `registry.csv` and `codebook.toml` into a folder, which is made if need be."""
    rows = registry(hospital, patients, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "codebook.toml").write_text(codebook().to_toml(), encoding="utf-8")
    with (folder / "registry.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [codebook().patient, *codebook().by_name])
        writer.writeheader()
        writer.writerows(rows)


def _row(random: Random, hospital: Hospital) -> dict[str, str]:
    core, severity = physiology(random, hospital.foci, hospital.severity, hospital.age, hospital.pathogens)
    values = complete(Record(random, core | local_treatment(random, core), severity), hospital.resistance)
    values |= {"hospital_type": hospital.kind, "hospital_beds": str(hospital.beds)}
    row = {}
    for feature in codebook().features:
        codes = {text: code for code, text in feature.categories.items()}
        lost = random.random() < _GAPS.get(feature.name, _GAP) * hospital.gaps
        missing = feature.name in hospital.unmeasured or (lost and feature.name not in CORE)
        row[feature.name] = "" if missing else codes.get(values[feature.name], values[feature.name])
    return row
