"""A run that asks for empirical choices gets those of each site's training patients; a private one is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.inspection.leaks import leak_lines
from client.privacy.validity import require_valid_privacy
from client.site.exclusions import EXCLUSIONS_FILE
from client.site.split import held_out
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig, load_config
from common.errors import FedReasonError
from common.questions.prompt import question_text
from simulation.prepare import prepare
from tests.small import small_config

PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-3}


def config(choices: str = "empirical", privacy: Any = None, **questions: Any) -> RunConfig:
    return small_config(
        Path("model"),
        questions={"choices": choices, **questions},
        simulation={"hospitals": ["north"], "patients": 150, "compare": False},
        federation={"sites": 1},
        privacy=privacy,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return prepare(config(), synthetic.codebook(), tmp_path)["north"]


def asked(site: Workplace, run: RunConfig) -> list[str]:
    return [question_text(question) for question in site.questions(run)]


def test_choices_are_those_of_the_training_patients(folder: Path) -> None:
    site, run = Workplace(folder), config()
    observed = site.maker(run).choices.features["lactate"].numbers  # type: ignore[attr-defined]
    assert sum(observed.cells) == sum("lactate" in patient.values for patient in site.training(run))
    assert asked(site, run) == asked(Workplace(folder), run) != asked(site, config("codebook"))


def test_a_held_out_patient_changes_no_other_question(folder: Path) -> None:
    site, run = Workplace(folder), config()
    gone = next(patient.id for patient in site.patients if held_out(patient, run, None))
    before = [question_text(question) for question in site.questions(run) if question.patient != gone]
    (folder / EXCLUSIONS_FILE).write_text(gone)
    assert asked(site, run) == before


def test_a_training_patient_who_opts_out_is_fitted_on_no_more(folder: Path) -> None:
    site, run = Workplace(folder), config()
    before = site.maker(run).choices
    assert site.maker(run).choices is before
    (folder / EXCLUSIONS_FILE).write_text(site.training(run)[0].id)
    assert site.maker(run).choices != before


def test_a_private_run_is_refused_before_it_starts_and_at_the_site(tmp_path: Path) -> None:
    private = config("codebook", PRIVACY)
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(private.model_dump(mode="json", exclude_none=True)))
    run, codebook = load_config(path)
    forged = run.model_copy(update={"questions": run.questions.model_copy(update={"choices": "empirical"})})
    with pytest.raises(FedReasonError, match=r"E841.*look at other patients"):
        require_valid_privacy(forged, codebook)
    path.write_text(path.read_text().replace('choices = "codebook"', 'choices = "empirical"'))
    with pytest.raises(FedReasonError, match=r"E104.*questions\.choices"):
        load_config(path)


def test_a_private_run_takes_no_codebook_that_was_read_off_records(tmp_path: Path) -> None:
    (tmp_path / "codebook.toml").write_text(synthetic.codebook().model_copy(update={"private": True}).to_toml())
    table = config("codebook", codebook="codebook.toml", codebook_sha256=None).model_dump(
        mode="json", exclude_none=True
    )
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(table))
    _, codebook = load_config(path)
    path.write_text(tomli_w.dumps({**table, "privacy": PRIVACY}))
    with pytest.raises(FedReasonError, match=r"E207.*private = true"):
        load_config(path)
    run = RunConfig.model_validate({**table, "privacy": PRIVACY})
    with pytest.raises(FedReasonError, match=r"E841.*drafted from records"):
        require_valid_privacy(run, codebook)


def test_leaks_are_proposed_to_a_person_at_the_site_until_the_codebook_states_them(tmp_path: Path) -> None:
    def proposed(number: int, groups: tuple[tuple[str, ...], ...]) -> list[str]:
        codebook = synthetic.codebook().model_copy(update={"leak_groups": groups})
        (tmp_path / "codebook.toml").write_text(codebook.to_toml())
        run = config("codebook", codebook="codebook.toml", codebook_sha256=None)
        (tmp_path / "run.toml").write_text(tomli_w.dumps(run.model_dump(mode="json", exclude_none=True)))
        prepare(*load_config(tmp_path / "run.toml"), tmp_path / str(number))
        return list(leak_lines(tmp_path / str(number) / "sites" / "north", tmp_path / "run.toml"))[2:]

    found = proposed(0, ())
    assert any(line.startswith('["gcs", "sofa_cns"],  # ') for line in found)
    accepted = tuple(tuple(tomllib.loads(f"pair = {line}".replace("],", "]"))["pair"]) for line in found)
    assert proposed(1, accepted) == []
    with pytest.raises(FedReasonError, match="E206"):
        list(leak_lines(tmp_path / "0" / "sites" / "north", tmp_path / "run.toml"))
    site = tmp_path / "1" / "sites" / "north"
    said = tomllib.loads((site / "site.toml").read_text())
    (site / "site.toml").write_text(tomli_w.dumps({"federation": "sepsis", **said}))
    with pytest.raises(FedReasonError, match=r"E301.*excluded.txt does not exist"):
        list(leak_lines(site, tmp_path / "run.toml"))
    (site / EXCLUSIONS_FILE).touch()
    assert list(leak_lines(site, tmp_path / "run.toml"))
