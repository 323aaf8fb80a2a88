"""Which column is the patient, and what folds to one, is the policy's to say; another codebook is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from client.policy.change import keep, require_confirmed
from client.policy.limits import PatientUnit
from client.policy.policy import POLICY_FILE, Policy, load_policy, read_policy
from client.policy.unit import require_unit
from client.registry.folding import folded
from common import synthetic
from common.codebook import ROW, Codebook
from common.config import RunConfig
from common.errors import Code
from tests.federations import made
from tests.hospitals import private_run
from tests.privacy_checks.ledger import refused
from tests.small import small_config


def by(column: str) -> Codebook:
    return synthetic.codebook().model_copy(update={"patient": column})


@pytest.mark.parametrize("codebook", [ROW, "visit_id", "Patient_ID", " patient_id"])
@pytest.mark.parametrize("private", [True, False])
def test_a_codebook_with_another_column_is_refused(small_model: Path, codebook: str, private: bool) -> None:
    run = private_run(small_model) if private else small_config(small_model)
    policy = Policy(patient=PatientUnit(column="patient_id"))
    require_unit(policy, run, by("patient_id"))
    told = refused(lambda: require_unit(policy, run, by(codebook)), Code.PRIVACY_UNIT)
    assert ("every row" in told) if codebook == ROW and private else (codebook in told and "patient_id" in told)


@pytest.mark.parametrize("codebook", [ROW, "patient_id"])
def test_where_the_policy_says_nothing_no_private_run_is_accepted(small_model: Path, codebook: str) -> None:
    told = refused(lambda: require_unit(Policy(), private_run(small_model), by(codebook)), Code.PRIVACY_UNIT)
    assert "client policy confirm" in told, "or the way out would end at the next refusal, E834"
    for run in (small_config(small_model), None):
        require_unit(Policy(), run, by(codebook))


def test_who_does_what_the_refusal_says_meets_no_other(small_model: Path, tmp_path: Path) -> None:
    path = tmp_path / POLICY_FILE
    path.write_text('metrics = "none"\n')
    keep(tmp_path, read_policy(tmp_path))
    run, codebook = private_run(small_model), by("patient_id")
    told = refused(lambda: require_unit(read_policy(tmp_path).policy, run, codebook), Code.PRIVACY_UNIT)
    assert "[patient] column" in told and "python -m client policy confirm" in told
    path.write_text(path.read_text() + '[patient]\ncolumn = "patient_id"\n')
    refused(lambda: require_confirmed(tmp_path, read_policy(tmp_path)), Code.POLICY_WEAKER)
    keep(tmp_path, read_policy(tmp_path), confirmed=True)
    require_confirmed(tmp_path, read_policy(tmp_path))
    require_unit(read_policy(tmp_path).policy, run, codebook)


@pytest.mark.parametrize("run", [True, False])
@pytest.mark.parametrize("fold", [(), ("case",), ("case", "blanks", "zeros")])
def test_another_folding_is_refused(small_model: Path, run: bool, fold: tuple[str, ...]) -> None:
    policy = Policy.model_validate({"patient": {"column": "patient_id", "fold": fold}})
    config: RunConfig | None = private_run(small_model) if run else None
    assert "fold" in refused(lambda: require_unit(policy, config, by("patient_id")), Code.PRIVACY_UNIT)


def test_what_the_policy_says_of_folding_is_what_this_version_does() -> None:
    ways = {"case": "AB-7", "blanks": "  ab-7 "}
    assert {folded(text) for text in ways.values()} == {"ab-7"}
    ways = {"zeros": "00123", "decimals": "123.0"}
    assert {folded(text) for text in ways.values()} == {"123"}


@pytest.mark.parametrize("unit", [{"column": ROW}, {"column": ""}, {"column": "  "}, {"fold": ["order"]}, {"col": "x"}])
def test_a_policy_that_names_no_column_or_another_way_to_fold_is_none(unit: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"patient": unit})


@pytest.mark.parametrize("column", ["patient_id", 'odd "name" é', ROW])
def test_a_kit_names_the_column_of_its_codebook_and_none_where_that_has_none(tmp_path: Path, column: str) -> None:
    path = tmp_path / "codebook.toml"
    path.write_text(by(column).to_toml())
    kit = made(tmp_path, codebook=path).kits[0]
    policy = load_policy(kit)
    assert policy.patient.column == (None if column == ROW else column)
    assert policy.patient.fold == PatientUnit().fold
