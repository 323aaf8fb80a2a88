"""Who trains is keyed by a secret of the site, which is drawn once and refused where it is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.site.secret import new_split_secret, split_secret
from client.site.split import held_out
from common.errors import Code
from common.questions.question import Patient
from common.stream import Stream
from tests.privacy_checks.ledger import refused
from tests.small import small_config

PATIENTS = [Patient(f"p{number}", {}) for number in range(200)]


def test_a_site_that_has_none_draws_one_and_keeps_it_and_a_simulated_one_has_none(tmp_path: Path) -> None:
    assert split_secret(tmp_path, None) is None and not (tmp_path / "keys").exists()
    drawn = split_secret(tmp_path, "sepsis")
    assert drawn is not None and len(drawn) == 64 and split_secret(tmp_path, "sepsis") == drawn
    assert split_secret(tmp_path, None) == drawn
    assert (tmp_path / "keys" / "split").stat().st_mode & 0o077 == 0
    new_split_secret(tmp_path / "other")
    assert split_secret(tmp_path / "other", "sepsis") != drawn


@pytest.mark.parametrize("text", ["", "small", "5" * 63, "5" * 65, "G" * 64, "5" * 64 + "\n\n", "\xe9" * 64])
def test_a_secret_of_another_form_is_refused_and_not_replaced(tmp_path: Path, text: str) -> None:
    new_split_secret(tmp_path)
    path = tmp_path / "keys" / "split"
    path.write_text(text, encoding="utf-8")
    refused(lambda: split_secret(tmp_path, "sepsis"), Code.KEY_MISSING)
    assert path.read_text(encoding="utf-8") == text
    path.chmod(0o644)
    refused(lambda: split_secret(tmp_path, "sepsis"), Code.KEY_PERMISSIONS)


def test_the_split_follows_the_secret_and_not_the_federation(small_model: Path) -> None:
    run = small_config(small_model, questions={"held_out": 0.5})
    renamed = small_config(small_model, questions={"held_out": 0.5}, federation={"name": "another"})

    def kept(config: object, secret: str | None) -> list[str]:
        return [patient.id for patient in PATIENTS if held_out(patient, config, secret)]  # type: ignore[arg-type]

    one, two = "1" * 64, "2" * 64
    assert kept(run, one) == kept(renamed, one) != kept(run, two)
    assert 60 < len(kept(run, one)) < 140


def test_a_simulation_keeps_the_split_that_it_always_had(small_model: Path) -> None:
    run = small_config(small_model)
    share, name = run.questions.held_out, run.federation.name
    for patient in PATIENTS:
        assert held_out(patient, run, None) == (Stream.named("split", name, patient.id).uniform() < share)
