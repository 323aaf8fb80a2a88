"""Codebook of the synthetic registry and the public knowledge in it: bounds, leak groups, tasks and short lists."""

from __future__ import annotations

from functools import cache
from typing import Any

from common.codebook import Codebook, View
from common.feature import Feature
from common.tasks import Case, ShortList, Task

FOCI = ("lung", "abdomen", "urine", "blood", "skin")
SHORT_LIST = {
    "acinetobacter": ("colistin", "gentamicin", "meropenem"),
    "bacteroides": ("gentamicin", "levofloxacin", "meropenem"),
    "ecoli": ("ceftriaxone", "gentamicin", "levofloxacin"),
    "enterococcus": ("gentamicin", "linezolid", "vancomycin"),
    "epidermidis": ("levofloxacin", "linezolid", "vancomycin"),
    "haemophilus": ("ceftriaxone", "levofloxacin", "meropenem"),
    "klebsiella": ("colistin", "gentamicin", "meropenem"),
    "pneumococcus": ("ceftriaxone", "levofloxacin", "vancomycin"),
    "proteus": ("ceftriaxone", "gentamicin", "levofloxacin"),
    "pseudomonas": ("colistin", "gentamicin", "meropenem"),
    "pyogenes": ("ceftriaxone", "linezolid", "vancomycin"),
    "saureus": ("gentamicin", "linezolid", "vancomycin"),
}
"""Antibiotics that the public guideline lists for a pathogen, in alphabetical order."""
DRUGS = ("ceftriaxone", "colistin", "gentamicin", "levofloxacin", "linezolid", "meropenem", "vancomycin")
INTERVALS = ("6", "8", "12", "24", "48")
INTERVAL_CUTS = (1.0, 1.5, 2.1, 3.2)
"""Creatinine (mg/dL) from which the next longer dosing interval (h) applies."""
FLUIDS = ("500", "1000", "1500", "2000", "2500")
FLUID_CUTS = (1.6, 2.2, 3.0, 4.2)
"""Lactate (mmol/L) from which the next larger fluid volume (ml) applies."""

CORE = (
    "age",
    "sex",
    "focus",
    "pathogen",
    "map",
    "gcs",
    "lactate",
    "platelets",
    "creatinine",
    "bilirubin",
    "pf_ratio",
    "antibiotic",
    "antibiotic_interval",
    "fluid_volume",
    "sofa_coagulation",
    "sofa_liver",
    "sofa_renal",
    "sofa_cns",
    "sofa_respiratory",
)
"""Features of the compact view; never missing."""
EVIDENCE = {
    "antibiotic": "pathogen",
    "antibiotic_interval": "creatinine",
    "fluid_volume": "lactate",
    "sofa_coagulation": "platelets",
    "sofa_liver": "bilirubin",
    "sofa_renal": "creatinine",
    "sofa_cns": "gcs",
    "sofa_respiratory": "pf_ratio",
    "focus": "pathogen",
    "platelets": "sofa_coagulation",
    "pf_ratio": "sofa_respiratory",
}
"""The core feature that decides each item."""
GAP = ("antibiotic", "antibiotic_interval", "fluid_volume")
"""Items whose answer follows local practice: public text only narrows it, reward teaches it."""
KEPT = tuple(item for item in EVIDENCE if item not in GAP)
"""Items whose answer public text teaches."""

COMORBIDITY_POINTS = {
    "myocardial_infarction": {"yes": 1},
    "heart_failure": {"yes": 1},
    "peripheral_vascular": {"yes": 1},
    "stroke": {"yes": 1},
    "dementia": {"yes": 1},
    "copd": {"yes": 1},
    "diabetes": {"uncomplicated": 1, "end-organ damage": 2},
    "kidney_disease": {"yes": 2},
    "liver_disease": {"mild": 1, "moderate or severe": 3},
    "cancer": {"localised": 2, "metastatic": 6},
}
"""Points of the Charlson comorbidity index (Charlson et al. 1987); age adds 1 for each decade from 50, at most 4."""
SOFA = ("sofa_respiratory", "sofa_coagulation", "sofa_liver", "sofa_cardiovascular", "sofa_cns", "sofa_renal")


def band(value: float, cuts: tuple[float, ...]) -> int:
    """Count the cuts that a value has reached."""
    return sum(value >= cut for cut in cuts)


def _number(
    name: str, label: str, unit: str, low: float, high: float, step: float, decimals: int = 0, short: str = ""
) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "kind": "numeric",
        "low": low,
        "high": high,
        "step": step,
        "decimals": decimals,
        "short": short,
    }


def _by_ratio(*what: Any, **more: Any) -> dict[str, Any]:
    """Describe a number whose choices are each so many times the one before."""
    return _number(*what, **more) | {"scale": "log"}


def _choice(
    name: str, label: str, options: tuple[str, ...] | dict[str, str], unit: str = "", short: str = ""
) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "unit": unit,
        "kind": "categorical",
        "categories": options if isinstance(options, dict) else list(options),
        "short": short,
    }


def _yes_no(name: str, label: str) -> dict[str, Any]:
    return _choice(name, label, ("no", "yes"))


def _points(name: str, label: str, short: str = "") -> dict[str, Any]:
    return _choice(name, label, ("0", "1", "2", "3", "4"), short=short)


_SECTIONS: dict[str, list[dict[str, Any]]] = {
    "Hospital": [
        _choice("hospital_type", "Hospital type", ("university", "general", "community")),
        _number("hospital_beds", "Hospital beds", "", 50, 2500, 60),
        _choice("admission_source", "Admitted from", ("home", "nursing home", "other hospital", "ward")),
        _choice("unit", "Unit", ("intensive care", "high dependency", "ward")),
    ],
    "Patient": [
        _number("age", "Age", "years", 20, 95, 4, short="Age"),
        _choice("sex", "Sex", {"M": "male", "F": "female"}, short="Sex"),
        _number("height", "Height", "cm", 140, 205, 2),
        _number("weight", "Weight", "kg", 35, 160, 4),
        _number("bmi", "Body mass index", "kg/m2", 13, 50, 1, 1),
        _number("frailty", "Clinical frailty scale", "", 1, 9, 1),
    ],
    "Comorbidity": [
        _yes_no("myocardial_infarction", "Previous myocardial infarction"),
        _yes_no("heart_failure", "Heart failure"),
        _yes_no("peripheral_vascular", "Peripheral vascular disease"),
        _yes_no("stroke", "Previous stroke"),
        _yes_no("dementia", "Dementia"),
        _yes_no("copd", "Chronic lung disease"),
        _choice("diabetes", "Diabetes", ("none", "uncomplicated", "end-organ damage")),
        _yes_no("kidney_disease", "Chronic kidney disease"),
        _choice("liver_disease", "Chronic liver disease", ("none", "mild", "moderate or severe")),
        _choice("cancer", "Cancer", ("none", "localised", "metastatic")),
        _yes_no("immunosuppression", "Immunosuppression"),
        _number("charlson", "Charlson index with age", "points", 0, 24, 1),
    ],
    "Infection": [
        _choice("focus", "Focus of infection", FOCI, short="Focus"),
        _choice("pathogen", "Pathogen", tuple(SHORT_LIST), short="Pathogen"),
        _choice("gram_stain", "Gram stain", ("positive", "negative")),
        _choice("acquired", "Acquired in", ("community", "hospital")),
        _choice("blood_culture", "Blood culture", ("no growth", "growth")),
        _choice("resistance", "Resistance", ("none", "MRSA", "VRE", "ESBL", "carbapenemase")),
    ],
    "Vitals": [
        _number("temperature", "Body temperature", "C", 34, 41.5, 0.2, 1),
        _number("heart_rate", "Heart rate", "/min", 40, 190, 3),
        _number("respiratory_rate", "Respiratory rate", "/min", 8, 50, 1),
        _number("sbp", "Systolic blood pressure", "mmHg", 40, 220, 4),
        _number("dbp", "Diastolic blood pressure", "mmHg", 20, 130, 2),
        _number("map", "Mean arterial pressure", "mmHg", 36, 104, 4, short="MAP"),
        _number("spo2", "Oxygen saturation", "%", 70, 100, 1),
        _number("gcs", "Glasgow coma scale", "points", 3, 15, 1, short="GCS"),
        _number("capillary_refill", "Capillary refill time", "s", 1, 9, 0.5, 1),
        _by_ratio("urine_output", "Urine output in 6 hours", "ml", 0, 1200, 1.2),
    ],
    "Labs": [
        _by_ratio("lactate", "Lactate", "mmol/L", 0.6, 8, 1.25, 1, short="Lactate"),
        _number("platelets", "Platelets", "10^9/L", 10, 400, 30, short="Platelets"),
        _by_ratio("creatinine", "Creatinine", "mg/dL", 0.4, 6, 1.25, 1, short="Creatinine"),
        _by_ratio("bilirubin", "Bilirubin", "mg/dL", 0.2, 16, 1.25, 1, short="Bilirubin"),
        _number("pf_ratio", "PaO2/FiO2", "mmHg", 50, 450, 70, short="PF"),
        _number("pao2", "PaO2", "mmHg", 40, 200, 2),
        _number("fio2", "Inspired oxygen fraction", "%", 21, 100, 10),
        _number("ph", "Arterial pH", "", 6.9, 7.6, 0.01, 2),
        _number("bicarbonate", "Bicarbonate", "mmol/L", 5, 40, 1),
        _number("base_excess", "Base excess", "mmol/L", -25, 15, 1),
        _by_ratio("wbc", "White cell count", "10^9/L", 0.5, 50, 1.12, 1),
        _number("hemoglobin", "Haemoglobin", "g/dL", 5, 18, 0.4, 1),
        _by_ratio("crp", "C-reactive protein", "mg/L", 1, 500, 1.25),
        _by_ratio("procalcitonin", "Procalcitonin", "ug/L", 0.1, 150, 1.4, 1),
        _number("sodium", "Sodium", "mmol/L", 115, 165, 1),
        _number("potassium", "Potassium", "mmol/L", 2.2, 7.5, 0.1, 1),
        _number("glucose", "Glucose", "mg/dL", 30, 600, 10),
        _number("albumin", "Albumin", "g/dL", 1, 5, 0.1, 1),
        _number("urea", "Urea nitrogen", "mg/dL", 4, 150, 2),
        _number("inr", "INR", "", 0.8, 6, 0.1, 1),
        _by_ratio("d_dimer", "D-dimer", "mg/L", 0.2, 40, 1.2, 1),
        _number("fibrinogen", "Fibrinogen", "mg/dL", 50, 900, 25),
    ],
    "Treatment": [
        _choice("antibiotic", "First antibiotic", DRUGS, short="Antibiotic"),
        _choice("antibiotic_interval", "Dosing interval", INTERVALS, "h", "Interval"),
        _choice("fluid_volume", "Fluid volume in 3 hours", FLUIDS, "ml", "Fluids"),
        _yes_no("hydrocortisone", "Hydrocortisone"),
        _yes_no("source_control", "Source control procedure"),
    ],
    "Bundle": [
        _by_ratio("minutes_to_lactate", "Time to lactate", "min", 0, 360, 1.2),
        _by_ratio("minutes_to_cultures", "Time to cultures", "min", 0, 360, 1.15),
        _by_ratio("minutes_to_antibiotic", "Time to antibiotic", "min", 0, 720, 1.2),
        _by_ratio("minutes_to_fluids", "Time to fluids", "min", 0, 360, 1.15),
        _yes_no("cultures_first", "Cultures before antibiotic"),
        _yes_no("bundle_complete", "Hour-1 bundle complete"),
    ],
    "SOFA": [
        _points("sofa_coagulation", "SOFA coagulation", "Coag"),
        _points("sofa_liver", "SOFA liver", "Liver"),
        _points("sofa_renal", "SOFA renal", "Renal"),
        _points("sofa_cns", "SOFA nervous system", "CNS"),
        _points("sofa_respiratory", "SOFA respiratory", "Resp"),
        _points("sofa_cardiovascular", "SOFA cardiovascular"),
        _number("sofa_total", "SOFA total", "points", 0, 24, 2),
    ],
    "Support": [
        _yes_no("vasopressor", "Vasopressor"),
        _number("norepinephrine", "Norepinephrine", "ug/kg/min", 0, 2, 0.05, 2),
        _yes_no("septic_shock", "Septic shock"),
        _choice("ventilation", "Ventilation", ("none", "high-flow oxygen", "non-invasive", "invasive")),
        _yes_no("renal_replacement", "Renal replacement"),
        _yes_no("transfusion", "Red cell transfusion"),
    ],
    "Course": [
        _yes_no("antibiotic_appropriate", "First antibiotic active in vitro"),
        _number("lactate_24h", "Lactate after 24 hours", "mmol/L", 0.4, 15, 0.4, 1),
        _number("sofa_24h", "SOFA total after 24 hours", "points", 0, 24, 1),
        _yes_no("aki_48h", "Acute kidney injury within 48 hours"),
        _yes_no("deescalated", "Antibiotic de-escalated"),
        _number("antibiotic_days", "Days of antibiotic", "d", 1, 42, 1),
        _by_ratio("ventilator_days", "Ventilator days", "d", 0, 60, 1.4),
        _by_ratio("icu_days", "Days in intensive care", "d", 0, 90, 1.4),
    ],
    "Outcome": [
        _by_ratio("hospital_days", "Days in hospital", "d", 1, 180, 1.15),
        _choice("hospital_outcome", "Hospital outcome", ("survived", "died")),
        _choice("discharged_to", "Discharged to", ("home", "rehabilitation", "nursing home", "died")),
    ],
}
_LATER = ("Course", "Outcome")


@cache
def codebook() -> Codebook:
    """Return the codebook of the synthetic registry; its compact view `core` is what the embedded model reads."""
    features = tuple(
        Feature(section=section, known_later=section in _LATER, **fields)
        for section, listed in _SECTIONS.items()
        for fields in listed
    )
    return Codebook(
        title="Synthetic sepsis registry",
        patient="patient_id",
        features=features,
        views={"core": View(features=CORE, compact=True)},
        leak_groups=_leak_groups(),
        tasks=_tasks(),
        short_lists=_short_lists(),
    )


def _leak_groups() -> tuple[tuple[str, ...], ...]:
    totals = [("charlson", name) for name in COMORBIDITY_POINTS] + [("sofa_total", name) for name in SOFA]
    return (
        ("sbp", "dbp", "map"),
        ("height", "weight", "bmi"),
        ("pf_ratio", "pao2", "fio2"),
        ("bicarbonate", "base_excess"),
        ("pathogen", "gram_stain", "resistance"),
        ("vasopressor", "norepinephrine", "septic_shock", "sofa_cardiovascular"),
        ("minutes_to_cultures", "cultures_first", "bundle_complete"),
        ("minutes_to_antibiotic", "cultures_first", "bundle_complete"),
        ("minutes_to_lactate", "bundle_complete"),
        ("minutes_to_fluids", "bundle_complete"),
        *totals,
    )


def _tasks() -> tuple[Task, ...]:
    return (
        Task(
            name="mortality",
            feature="hospital_outcome",
            question="Will the patient survive the hospital stay or die?",
        ),
        Task(
            name="kidney_injury",
            feature="aki_48h",
            question="Will acute kidney injury occur within 48 hours?",
        ),
        Task(
            name="next_lactate",
            feature="lactate_24h",
            question="What will the lactate (mmol/L) be 24 hours after the last record?",
        ),
    )


def _short_lists() -> tuple[ShortList, ...]:
    def ladder(feature: str, given: str, cuts: tuple[float, ...], options: list[tuple[str, ...]]) -> ShortList:
        edges = (float("-inf"), *cuts, float("inf"))
        cases = (Case(at_least=edges[i], below=edges[i + 1], options=listed) for i, listed in enumerate(options))
        return ShortList(feature=feature, given=given, cases=tuple(cases))

    drugs = (Case(value=pathogen, options=listed) for pathogen, listed in SHORT_LIST.items())
    return (
        ShortList(feature="antibiotic", given="pathogen", cases=tuple(drugs)),
        ladder("antibiotic_interval", "creatinine", INTERVAL_CUTS, [INTERVALS[i : i + 3] for i in range(5)]),
        ladder("fluid_volume", "lactate", FLUID_CUTS, [FLUIDS[max(0, i - 2) : i + 1] for i in range(5)]),
    )
