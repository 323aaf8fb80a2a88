"""The wide record around a patient's core, from comorbidity to outcome, each value drawn from its causes.

The SOFA points follow Vincent et al. 1996. Everyone with a PaO2/FiO2 below 200 is ventilated, so the respiratory points
need no second condition; renal points follow creatinine alone; norepinephrine is the only vasopressor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

from common.synthetic.codebook import COMORBIDITY_POINTS, SHORT_LIST, SOFA, codebook

_GRAM_POSITIVE = {"pneumococcus", "pyogenes", "enterococcus", "epidermidis", "saureus"}
_RESISTANCE = {
    "saureus": "MRSA",
    "epidermidis": "MRSA",
    "enterococcus": "VRE",
    "ecoli": "ESBL",
    "klebsiella": "ESBL",
    "proteus": "ESBL",
    "pseudomonas": "carbapenemase",
    "acinetobacter": "carbapenemase",
}
_DEFEATED = {
    "none": set(),
    "MRSA": {"ceftriaxone", "meropenem", "levofloxacin"},
    "VRE": {"vancomycin"},
    "ESBL": {"ceftriaxone", "levofloxacin"},
    "carbapenemase": {"meropenem", "ceftriaxone"},
}
_COMORBID_ODDS = {  # log-odds at 65 years, change per decade
    "myocardial_infarction": (-2.2, 0.4),
    "heart_failure": (-1.9, 0.5),
    "peripheral_vascular": (-2.6, 0.4),
    "stroke": (-2.2, 0.4),
    "dementia": (-2.6, 0.9),
    "copd": (-1.7, 0.2),
    "diabetes": (-0.9, 0.15),
    "kidney_disease": (-2.0, 0.3),
    "liver_disease": (-2.6, -0.1),
    "cancer": (-1.9, 0.2),
    "immunosuppression": (-2.3, -0.1),
}


def charlson_points(values: Mapping[str, str]) -> int:
    """Charlson index with age of a record's comorbidities."""
    points = sum(by_value.get(values[name], 0) for name, by_value in COMORBIDITY_POINTS.items())
    return points + min(4, max(0, int(float(values["age"]) // 10) - 4))


def cardiovascular_points(map_: float, norepinephrine: float) -> int:
    """SOFA cardiovascular points from mean arterial pressure (mmHg) and norepinephrine (ug/kg/min)."""
    if norepinephrine > 0:
        return 4 if norepinephrine > 0.1 else 3
    return int(map_ < 70)


class Record:
    """A record being filled in; numbers are held to the codebook's bounds and precision as they are written."""

    def __init__(self, random: Random, core: Mapping[str, str], severity: float) -> None:
        self.random = random
        self.severity = severity
        self.values = dict(core)

    def __getitem__(self, name: str) -> float:
        """Return the number written for a feature."""
        return float(self.values[name])

    def number(self, name: str, value: float) -> None:
        """Write a number."""
        feature = codebook().by_name[name]
        assert feature.low is not None and feature.high is not None
        self.values[name] = feature.number(min(max(value, feature.low), feature.high))

    def gauss(self, name: str, mean: float, deviation: float) -> None:
        """Write a normal number."""
        self.number(name, self.random.gauss(mean, deviation))

    def lognormal(self, name: str, log_mean: float, log_deviation: float) -> None:
        """Write a log-normal number."""
        self.number(name, math.exp(self.random.gauss(log_mean, log_deviation)))

    def chance(self, logit: float) -> bool:
        """Draw an event of these log-odds."""
        return self.random.random() < 1 / (1 + math.exp(-logit))

    def yes(self, name: str, logit: float) -> None:
        """Write yes with these log-odds, else no."""
        self.flag(name, self.chance(logit))

    def flag(self, name: str, value: bool) -> None:
        """Write yes or no."""
        self.values[name] = "yes" if value else "no"

    def one_of(self, name: str, weights: Mapping[str, float]) -> None:
        """Write one category, by weight."""
        self.values[name] = self.random.choices(list(weights), weights=list(weights.values()))[0]


def complete(record: Record, resistance: float) -> dict[str, str]:
    """Fill in all but the hospital's own columns, cause before effect; `resistance` shifts the log-odds of it."""
    _background(record)
    _microbiology(record, resistance)
    _vitals(record)
    _gas_exchange(record)
    _laboratory(record)
    _bundle(record)
    _support(record)
    _course(record)
    _outcome(record)
    return record.values


def _background(r: Record) -> None:
    decades = (r["age"] - 65) / 10
    male = r.values["sex"] == "male"
    r.gauss("height", 176 if male else 163, 7)
    r.gauss("bmi", 26 - 0.3 * decades, 5)
    r.number("weight", r["bmi"] * (r["height"] / 100) ** 2)
    r.number("bmi", r["weight"] / (r["height"] / 100) ** 2)
    for name, (odds, slope) in _COMORBID_ODDS.items():
        r.yes(name, odds + slope * decades)
    for name, mild, grave, share in [
        ("diabetes", "uncomplicated", "end-organ damage", 0.3),
        ("liver_disease", "mild", "moderate or severe", 0.4),
        ("cancer", "localised", "metastatic", 0.35),
    ]:
        present = r.values[name] == "yes"
        r.values[name] = (grave if r.random.random() < share else mild) if present else "none"
    r.number("charlson", charlson_points(r.values))
    r.number("frailty", round(r.random.gauss(3 + 0.45 * decades + 0.25 * r["charlson"] * 0.8, 1.2)))
    frail = max(0.0, r["frailty"] - 4)
    r.one_of("admission_source", {"home": 6, "nursing home": 0.4 + frail, "other hospital": 1.2, "ward": 1.5})
    unit = {"intensive care": math.exp(0.9 * r.severity), "high dependency": 1.0, "ward": math.exp(-0.9 * r.severity)}
    r.one_of("unit", unit)


def _microbiology(r: Record, resistance: float) -> None:
    pathogen = r.values["pathogen"]
    r.values["gram_stain"] = "positive" if pathogen in _GRAM_POSITIVE else "negative"
    inpatient = r.values["admission_source"] in ("ward", "other hospital")
    r.one_of("acquired", {"hospital": 3.0 if inpatient else 0.4, "community": 1.0})
    bloodstream = 2.5 if r.values["focus"] == "blood" else -0.9
    r.values["blood_culture"] = "growth" if r.chance(bloodstream + 0.4 * r.severity) else "no growth"
    odds = -1.7 + resistance + 0.9 * (r.values["acquired"] == "hospital")
    resistant = r.chance(odds) and pathogen in _RESISTANCE
    r.values["resistance"] = _RESISTANCE[pathogen] if resistant else "none"


def _vitals(r: Record) -> None:
    s = r.severity
    r.gauss("temperature", 38.2 - 0.02 * (r["age"] - 60) - 0.2 * max(0.0, s - 1.5), 0.9)
    r.gauss("heart_rate", 98 + 8 * s + 5 * (r["temperature"] - 38), 14)
    pulse = max(16.0, r.random.gauss(48 - 5 * s, 9))
    r.number("dbp", r["map"] - pulse / 3)
    r.number("sbp", r["map"] + 2 * pulse / 3)
    r.gauss("respiratory_rate", 22 + 2.5 * s + (270 - r["pf_ratio"]) / 60, 4)
    r.lognormal("capillary_refill", 0.8 + 0.2 * s + 0.05 * (r["lactate"] - 2), 0.3)
    r.number("urine_output", 360 * math.exp(-0.35 * (r["creatinine"] - 1) + r.random.gauss(0, 0.5)))


def _gas_exchange(r: Record) -> None:
    pf = r["pf_ratio"]
    r.values["ventilation"] = _ventilation(r, pf)
    target = {"none": 21, "high-flow oxygen": 40, "non-invasive": 50, "invasive": 55}[r.values["ventilation"]]
    aim = r.random.gauss(82, 9)
    r.number("fio2", min(100.0, max(target, 100 * aim / pf)))
    r.number("pao2", pf * r["fio2"] / 100)
    r.gauss("spo2", 100 - 55 * math.exp(-r["pao2"] / 27), 1)


def _ventilation(r: Record, pf: float) -> str:
    if pf < 200:
        invasive = r.chance(0.3 + 0.7 * r.severity + (200 - pf) / 60 + (9 - r["gcs"]) / 3)
        return "invasive" if invasive else "non-invasive"
    if r["gcs"] <= 8 and r.chance(1.5):
        return "invasive"
    return "high-flow oxygen" if r.chance((280 - pf) / 40) else "none"


def _laboratory(r: Record) -> None:
    s = r.severity
    lactate, creatinine, bilirubin = r["lactate"], r["creatinine"], r["bilirubin"]
    r.gauss("bicarbonate", 25.5 - 1.4 * lactate - 0.7 * (creatinine - 1), 2.5)
    r.gauss("ph", 7.42 - 0.012 * (24 - r["bicarbonate"]) - 0.01 * s, 0.035)
    r.gauss("base_excess", r["bicarbonate"] - 24.5 + 15 * (r["ph"] - 7.4), 1.2)
    r.lognormal("wbc", 2.6 - 0.25 * (r.values["immunosuppression"] == "yes") + 0.05 * s, 0.45)
    r.gauss("hemoglobin", 12.6 - 0.5 * s - 0.25 * (creatinine - 1) + 0.8 * (r.values["sex"] == "male"), 1.6)
    r.lognormal("crp", 4.8 + 0.2 * s, 0.7)
    gram_negative = r.values["gram_stain"] == "negative"
    r.lognormal("procalcitonin", 1.2 + 0.55 * s + 0.5 * gram_negative + 0.12 * (creatinine - 1), 1.0)
    r.gauss("sodium", 137 + 0.6 * s, 4.5)
    r.gauss("potassium", 4.1 + 0.25 * (creatinine - 1) + 2.0 * (7.4 - r["ph"]), 0.5)
    r.lognormal("glucose", 4.85 + 0.35 * (r.values["diabetes"] != "none") + 0.08 * s, 0.28)
    r.gauss("albumin", 3.1 - 0.25 * s - 0.04 * bilirubin, 0.45)
    r.lognormal("urea", 2.95 + 0.35 * (creatinine - 1.2) - 0.03 * creatinine**2, 0.35)
    r.lognormal("inr", 0.15 + 0.08 * s + 0.03 * bilirubin, 0.2)
    clotting = max(0.0, (150 - r["platelets"]) / 100)
    r.lognormal("d_dimer", 0.9 + 0.3 * s + 0.6 * clotting, 0.7)
    r.gauss("fibrinogen", 480 - 30 * s - 130 * clotting, 100)


def _bundle(r: Record) -> None:
    urgency = -0.25 * r.severity
    for name, typical in [("lactate", 25), ("cultures", 35), ("fluids", 40), ("antibiotic", 65)]:
        r.lognormal(f"minutes_to_{name}", math.log(typical) + urgency, 0.6)
    r.flag("cultures_first", r["minutes_to_cultures"] <= r["minutes_to_antibiotic"])
    within = all(r[f"minutes_to_{name}"] <= 60 for name in ("lactate", "cultures", "fluids", "antibiotic"))
    r.flag("bundle_complete", within and r.values["cultures_first"] == "yes")
    r.yes("source_control", {"abdomen": 0.8, "skin": 0.2, "urine": -0.8}.get(r.values["focus"], -2.5))


def _support(r: Record) -> None:
    pressor = r.chance(0.22 * (62 - r["map"]) + 0.35 * (r["lactate"] - 3))
    r.flag("vasopressor", pressor)
    dose = math.exp(r.random.gauss(-2.3 + 0.35 * r.severity, 0.6)) if pressor else 0.0
    r.number("norepinephrine", max(0.02, dose) if pressor else 0.0)
    r.flag("septic_shock", pressor and r["lactate"] > 2)
    r.yes("hydrocortisone", 1.5 if r["norepinephrine"] > 0.2 else -3.0)
    r.values["sofa_cardiovascular"] = str(cardiovascular_points(r["map"], r["norepinephrine"]))
    r.number("sofa_total", sum(int(r.values[name]) for name in SOFA))
    r.yes("renal_replacement", -4.5 + 1.3 * int(r.values["sofa_renal"]) + 5 * (7.25 - r["ph"]))
    r.yes("transfusion", 1.6 * (7.5 - r["hemoglobin"]))


def _course(r: Record) -> None:
    drug, pathogen = r.values["antibiotic"], r.values["pathogen"]
    active = drug in SHORT_LIST[pathogen] and drug not in _DEFEATED[r.values["resistance"]]
    r.flag("antibiotic_appropriate", active)
    late = (r["minutes_to_antibiotic"] - 60) / 120
    harm = 0.25 * r.severity + 0.5 * (not active) + 0.15 * late
    r.number("lactate_24h", r["lactate"] * math.exp(r.random.gauss(-0.45 + 0.4 * harm, 0.3)))
    r.number("sofa_24h", round(r.random.gauss(0.9 * r["sofa_total"] - 0.8 + 1.8 * harm, 1.6)))
    kidney = r.values["kidney_disease"] == "yes"
    nephrotoxic = drug in ("gentamicin", "colistin", "vancomycin")
    r.yes("aki_48h", -1.9 + 0.9 * (r["creatinine"] - 1.2) + 0.7 * harm + 0.5 * kidney + 0.4 * nephrotoxic)
    r.yes("deescalated", -0.4 + 0.8 * active - 0.4 * r.severity)
    r.gauss("antibiotic_days", 8 + 3 * (r.values["focus"] == "blood") + 2 * harm, 3)


def _outcome(r: Record) -> None:
    active = r.values["antibiotic_appropriate"] == "yes"
    odds = (
        -4.9
        + 0.3 * r["sofa_total"]
        + 0.025 * (r["age"] - 65)
        + 0.14 * r["charlson"]
        + 0.22 * (r["frailty"] - 4)
        + 0.8 * (not active)
        + 0.2 * (r["lactate_24h"] - 2)
    )
    died = r.chance(odds)
    r.values["hospital_outcome"] = "died" if died else "survived"
    stay = math.exp(r.random.gauss(1.0 + 0.12 * r["sofa_total"], 0.6))
    needs_care = r.values["unit"] == "intensive care" or r.values["ventilation"] == "invasive"
    r.number("icu_days", round(stay) if needs_care else 0)
    r.number("ventilator_days", round(0.6 * stay) if r.values["ventilation"] == "invasive" else 0)
    after = math.exp(r.random.gauss(1.0 if died else 2.1 + 0.05 * r["frailty"], 0.6))
    r.number("hospital_days", max(1, round(r["icu_days"] + after)))
    weak = math.exp(0.5 * (r["frailty"] - 5) + 0.05 * r["icu_days"])
    if died:
        r.values["discharged_to"] = "died"
    else:
        r.one_of("discharged_to", {"home": 2.0, "rehabilitation": 0.8 * weak, "nursing home": 0.5 * weak})
