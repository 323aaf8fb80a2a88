"""What a draft leaves to a person: dates kept as numbers, thousands, words for no value, what is known only later."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from openpyxl import Workbook

from client.draft.doubts import moments
from client.draft.table import Draft, draft
from client.registry.table import Table
from client.registry.wording import about_death, known_later
from client.registry.workbook import read_workbook
from common.codebook import ROW
from tests.client.registry.test_cases_ids import drafted, load_text

RNG = random.Random(0)


def review(found: Draft, name: str) -> str:
    return " ".join(found.doubts.get(name, ()))


def one(cells: list[str], name: str = "x", thousands: str | None = None, decimal: str = ".") -> Draft:
    rows = ((place, [cell, "ab"[place % 2]]) for place, cell in enumerate(cells))
    table = Table("r.csv", (name, "other"), iter(list(rows)))
    return draft(table, patient=ROW, decimal=decimal, thousands=thousands, title="T")


# --- Dates that are numbers ---


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("admitted", [str(RNG.randint(43_000, 46_000)) for _ in range(200)]),
        ("x", [f"{RNG.uniform(43_000, 46_000):.4f}" for _ in range(200)]),
        ("x", [str(RNG.randint(1_600_000_000, 1_700_000_000)) + ".5" for _ in range(200)]),
        ("x", [str(RNG.choice(range(1_600_000_000_000, 1_700_000_000_000, 1000))) for _ in range(200)] * 2),
        ("sas_start", [str(RNG.randint(20_000, 24_000)) for _ in range(200)]),
        ("geburtsdatum", [str(RNG.randint(8_000, 36_000)) for _ in range(200)]),
    ],
)
def test_dates_that_are_numbers_are_suspected_and_not_asked_for(name: str, cells: list[str]) -> None:
    found = one(cells, name)
    feature = found.codebook.by_name[name]
    assert feature.kind == "numeric" and not feature.asked
    assert "days" in review(found, name) or "seconds since 1970" in review(found, name)
    assert load_text(found) == found.codebook


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("platelets", 20_000, 400_000),
        ("wbc", 2_000, 30_000),
        ("bnp", 50, 35_000),
        ("sodium", 120, 150),
        ("year", 1990, 2024),
    ],
)
def test_measurements_are_no_dates(name: str, low: int, high: int) -> None:
    assert moments(name, np.array([RNG.randint(low, high) for _ in range(300)], dtype=float)) == ""


# --- Thousands ---


@pytest.mark.parametrize(
    ("cells", "doubted"),
    [
        (["1.234", "850", "12.500", "2.120", "640"], True),
        (["1.234", "12.500", "3.870", "110.250"], True),
        (["7.412", "7.389", "7.250"], False),  # pH
        (["1.234", "850", "12.5"], False),
        (["0.234", "1.234", "2"], False),
    ],
)
def test_thousands_in_a_draft_are_to_be_reviewed(cells: list[str], doubted: bool) -> None:
    noisy = [cell[:-1] + str(RNG.randint(1, 9)) if len(cell) > 4 else cell for cell in cells * 30]
    assert ("--thousands" in review(one(noisy), "x")) is doubted
    comma = one([cell.replace(".", ",") for cell in noisy], decimal=",")
    assert ("--thousands" in review(comma, "x")) is doubted
    assert "--thousands" not in review(one(noisy, thousands=","), "x")


def workbook_draft(folder: Path, cells: list[object], form: str = "General") -> Draft:
    book = Workbook()
    assert book.active is not None
    book.active.append(["x", "other"])
    for place, cell in enumerate(cells):
        book.active.append([cell, "ab"[place % 2]])
        book.active.cell(place + 2, 1).number_format = form
    book.save(folder / "r.xlsx")
    table = read_workbook(folder / "r.xlsx", sheet=None, header_row=1)
    return draft(table, patient=ROW, decimal=".", title="T")


def test_numbers_of_a_workbook_are_no_thousands(tmp_path: Path) -> None:
    assert "--thousands" not in review(workbook_draft(tmp_path, [1.234, 850, 12.125, 640, 2.117] * 20), "x")
    assert "--thousands" in review(workbook_draft(tmp_path, ["1.234", "850", "12.125", "640", "2.117"] * 20), "x")


def test_a_code_in_percent_format_is_the_code_that_the_cell_holds(tmp_path: Path) -> None:
    cells: list[object] = [-99, *(RNG.randint(85, 100) / 100 for _ in range(11))] * 20
    found = workbook_draft(tmp_path, cells, "0%")
    feature = found.codebook.by_name["x"]
    assert feature.low is not None and feature.low >= 0 and "-99" in found.codebook.missing


# --- Words for no value ---


@pytest.mark.parametrize(
    "word", ["Unknown", "UNK", "N.A.", "none", "not done", "Not_Done", "nd", "k.A.", "inconnu", "n/k"]
)
def test_a_word_for_no_value_stays_and_is_to_be_reviewed(word: str) -> None:
    found = drafted({"x": ["yes", "no", word] * 30, "y": [*(str(i % 37) for i in range(60)), *[word] * 30]})
    assert word in found.codebook.by_name["x"].categories and word in found.codebook.by_name["y"].words
    assert found.codebook.by_name["y"].kind == "numeric"
    for name in "xy":
        assert f"{word} may stand for no value" in review(found, name) and "`missing`" in review(found, name)
    assert word not in found.codebook.missing and load_text(found) == found.codebook


def test_signs_that_mean_nothing_else_are_missing_and_ordinary_words_are_not_doubted() -> None:
    found = drafted({"x": ["yes", "no", "NA", "null", "-"] * 30})
    assert set(found.codebook.by_name["x"].categories) == {"yes", "no"} and not found.doubts
    assert {"NA", "null", "-"} <= set(found.codebook.missing)


def test_numbers_stay_numbers_where_most_were_not_done() -> None:
    found = drafted({"x": [*(str(i % 37) for i in range(90)), *["not done"] * 110]})
    assert found.codebook.by_name["x"].kind == "numeric"


# --- Exports with labels ---


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("signs___1", ["Checked", "Unchecked"]),
        ("Signs (choice=Fever)", ["1", "0"]),
        ("intake_complete", ["Complete", "Incomplete", "Unverified"]),
        ("Complete?", ["Complete", "Incomplete"]),
    ],
)
def test_an_export_with_labels_is_told_to_be_exported_raw(name: str, cells: list[str]) -> None:
    assert "export raw data" in " ".join(one(cells * 30, name).told())


def test_other_tables_are_not() -> None:
    assert "raw" not in " ".join(one(["complete", "partial"] * 30, "remission").told())


# --- Known later ---

LATER = """
    mRS_90 mRS90 mrs_d90 CPC_6m cpc gose_6mo GOS_E_12m vfd28 VFD vent_free_days icu_free_days organ_support_free_days
    exitus mors dc_dispo dc_dest discharge_disposition dispo entlassart los_icu hosp_los hlos iculos verweildauer
    vitalstatus verstorben todesdatum décès décédé deces_j28 fallecido exitus_letalis óbito decesso overleden sterfte
    död avliden død dødsfald kuollut zgon mortalité_90 mort28 hospital_expire_flag sf36_12m eq5d_6m qol_90 status_3m
    alive_1y outcome_6mo fu_3m FUP_date nachsorge suivi_6mois seguimiento readmit_30d rehosp wiederaufnahme_30
    day90_alive d28_status m6_visit visit_m12 esito desenlace fecha_alta durée_séjour estancia_dias degenza ligduur
    vfdays opname_duur Letalitaet os_time PFS time_to_event d90mort inhospmort LOSdays dcdate Sterbedatum
    vårdtid resultado_final DAOH überleben ueberlebt_28d survie_90j sopravvivenza
    icu_days vent_days days_in_icu lengthofstay stay_days
"""
NOW = """
    age sex crp_d1 lactate_24h urine_24h mrs_pre premorbid_mRS mrs_admission gcs_m6 dead_space tot_bilirubin bili_tot
    expired_volume expired_co2 presion_alta age_18_years map_65 spo2_90 time_below_90 history_6m d_dimer vitamin_d_25
    wbc_mm3 day_1 sofa_day3 gos_baseline dose_5fu 5-FU todd_paresis morse_fall_scale steroids_7d dispatch_time
    disposable dcm cardioversion_dc kilos moribund smoker_status asa_status ausgangswert
"""


@pytest.mark.parametrize("name", LATER.split())
def test_a_name_tells_that_its_value_is_known_later(name: str) -> None:
    assert known_later(name)


@pytest.mark.parametrize("name", NOW.split())
def test_a_name_like_one_does_not(name: str) -> None:
    assert known_later(name) is None


def test_a_draft_proposes_them(tmp_path: Path) -> None:
    found = drafted({name: ["0", "1", "2"] * 30 for name in ("mRS_90", "icu_free_days", "dc_dispo", "sofa_day3")})
    assert found.codebook.later == {"mRS_90", "icu_free_days", "dc_dispo"}


@pytest.mark.parametrize("choice", ["verstorben", "Décédé", "fallecido", "deceduto", "overleden", "Exitus", "사망"])
def test_a_choice_tells_of_a_death_in_other_languages(choice: str) -> None:
    assert about_death("status", choices=["home", choice]) and not about_death("status", choices=["home", "tot. 5"])
