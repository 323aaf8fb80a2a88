"""A study file says what is compared before anything is run; what it cannot mean is refused with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w

from common.codebook import load_codebook
from common.errors import Code, FedReasonError
from simulation.statistics.tables import NAMES
from simulation.study.config import CHANCE, OWN, PRIVATE, Arm, StudyConfig, check_columns, load_study, over
from simulation.study.units import Unit, units_of
from tests.paths import ROOT
from tests.small import PRIVACY, write_config

STUDIES = sorted((ROOT / "configs" / "studies").glob("*.toml"))


def written(folder: Path, **changes: Any) -> Path:
    table = {"name": "small", "config": "run.toml", "seeds": [4], "arms": ["before", "federated"]} | changes
    write_config(folder, Path("tiny"), federation={"population": 300})
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in table.items() if value is not None}))
    return path


def test_an_outcome_of_more_categories_than_a_question_offers_is_refused(tmp_path: Path) -> None:
    """The event is offered to all to whom it happened, and to some others alone: their share would be wrong."""
    path = written(tmp_path, outcomes={"mortality": "died"})
    book = load_study(path).codebook
    task = next(task for task in book.tasks if task.name == "mortality")
    more = {str(place): text for place, text in enumerate(("died", "home", "ward", "hospice", "clinic", "abroad"))}
    features = [
        each.model_copy(update={"categories": more}) if each.name == task.feature else each for each in book.features
    ]
    with pytest.raises(FedReasonError) as refusal:
        check_columns(load_study(path).config, book.model_copy(update={"features": tuple(features)}), path)
    assert refusal.value.code is Code.CONFIG_VALUE and "more categories than a question" in str(refusal.value)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_along_are_valid_and_say_what_they_compare(path: Path) -> None:
    study = load_study(path)
    assert set(get_args(Arm)) | {OWN, CHANCE} == set(NAMES), "each has its name in the tables"
    assert study.config.name == path.stem and len(study.config.seeds) == 3 and study.config.comparisons
    assert study.plain.privacy is None and not study.plain.secure


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"arm": ["before"]}, Code.CONFIG_UNKNOWN_KEY, "arm: is not a known key"),
        ({"arms": ["after"]}, Code.CONFIG_VALUE, "line 6, arms.0"),
        ({"arms": ["before", "before"]}, Code.CONFIG_VALUE, "each may be named once"),
        ({"seeds": []}, Code.CONFIG_VALUE, "seeds"),
        ({"seeds": [4, 2**63]}, Code.CONFIG_VALUE, "line 3, seeds.1"),
        ({"name": "../x"}, Code.CONFIG_VALUE, "name"),
        ({"comparisons": [["federated", "own"]]}, Code.CONFIG_VALUE, "federated and own are no two of"),
        ({"comparisons": [["before", "before"]]}, Code.CONFIG_VALUE, "no two of"),
        ({"config": "absent.toml"}, Code.CONFIG_MISSING, "absent.toml does not exist"),
        ({"run": {"federation": {"rounds": 0}}}, Code.CONFIG_VALUE, "line 12, run.federation.rounds"),
        ({"run": {"federation": {"round": 1}}}, Code.CONFIG_UNKNOWN_KEY, "run.federation.round: is not a known key"),
        ({"run": {"seed": 3}}, Code.CONFIG_VALUE, "seed cannot be changed here"),
        ({"run": {"questions": {"weights": {"nothing": 1.0}}}}, Code.CONFIG_VALUE, "questions.weights names nothing"),
        ({"run": {"questions": {"codebook_sha256": "0" * 64}}}, Code.CODEBOOK_CHANGED, "states codebook 0000"),
        ({"private": {"grpo": {"group_size": 2}}}, Code.CONFIG_VALUE, "grpo would be another run"),
        ({"arms": ["local"]}, Code.CONFIG_VALUE, "no [private.privacy]"),
        ({"arms": ["local"], "private": {"privacy": {"clip_norm": -1}}}, Code.CONFIG_VALUE, "private.privacy"),
        (
            {"arms": ["distributed"], "private": {"privacy": PRIVACY | {"noise_multiplier": 1.0}}},
            Code.DP_REFUSED,
            "privacy.colluders 0",
        ),
        ({"outcomes": {"age": "died"}}, Code.CONFIG_VALUE, "outcomes.age is no outcome task"),
        ({"outcomes": {"mortality": "gone"}}, Code.CONFIG_VALUE, "They are: survived, died."),
        ({"outcomes": {"next_lactate": "4"}}, Code.CONFIG_VALUE, "none, since it is a number"),
        (
            {"arms": ["left_out"], "run": {"federation": {"sites": 1}, "simulation": {"hospitals": ["north"]}}},
            Code.CONFIG_VALUE,
            "leaves sites out in turn, and there is one",
        ),
        ({"subgroups": {"shoe": []}}, Code.CONFIG_VALUE, "subgroups.shoe"),
        ({"subgroups": {"age": []}}, Code.CONFIG_VALUE, "where its bands begin"),
        ({"subgroups": {"age": [60, 50]}}, Code.CONFIG_VALUE, "ascending"),
        ({"subgroups": {"sex": [1]}}, Code.CONFIG_VALUE, "Leave its list empty"),
    ],
)
def test_what_a_study_cannot_mean_is_refused(tmp_path: Path, changes: dict[str, Any], code: Code, told: str) -> None:
    with pytest.raises(FedReasonError) as refused:
        load_study(written(tmp_path, **changes))
    assert refused.value.code == code and told in str(refused.value)


def test_every_arm_takes_as_many_steps_and_rollouts(tmp_path: Path) -> None:
    private = {"privacy": PRIVACY | {"colluders": 1, "noise_multiplier": 1.0}, "optimizer": {"name": "sgd"}}
    path = written(tmp_path, arms=["federated", *PRIVATE], private=private)
    study = load_study(path)
    runs = {arm: study.run_of(arm, 9) for arm in study.config.arms}
    assert {run.seed for run in runs.values()} == {9}
    for name in ("grpo", "questions", "model", "adapter", "evaluation"):
        assert len({getattr(run, name).model_dump_json() for run in runs.values()}) == 1
    work = ("rounds", "sampling_rate", "population", "sites", "local_steps")
    assert len({tuple(getattr(run.federation, key) for key in work) for run in runs.values()}) == 1
    assert runs["federated"].privacy is None and runs["federated"].optimizer.name == "adamw"
    local, distributed = runs["local"].privacy, runs["distributed"].privacy
    assert local is not None and distributed is not None
    assert (local.noise, local.colluders, runs["local"].secure) == ("local", 0, False)
    assert (distributed.noise, distributed.colluders, runs["distributed"].secure) == ("distributed", 1, True)
    assert local.noise_multiplier == distributed.noise_multiplier


def test_a_change_of_anything_that_decides_the_answers_is_another_study(tmp_path: Path) -> None:
    before = load_study(written(tmp_path)).sha256
    assert load_study(written(tmp_path)).sha256 == before
    assert load_study(written(tmp_path, seeds=[5])).sha256 != before
    assert load_study(written(tmp_path)).sha256 == before
    (tmp_path / "run.toml").write_text((tmp_path / "run.toml").read_text().replace("rounds = 3", "rounds = 4"))
    assert load_study(tmp_path / "study.toml").sha256 != before


def test_tables_are_changed_at_any_depth_and_weights_as_a_whole() -> None:
    table = {"a": {"b": 1, "c": 2}, "questions": {"weights": {"age": 1.0}, "view": "core"}}
    changed = over(table, {"a": {"b": 3}, "questions": {"weights": {"sex": 2.0}}, "d": 4})
    assert changed == {"a": {"b": 3, "c": 2}, "questions": {"weights": {"sex": 2.0}, "view": "core"}, "d": 4}
    assert table["a"] == {"b": 1, "c": 2}, "the base stays"


def test_a_unit_is_found_again_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, seeds=[-3, 4], arms=["before", "alone", "left_out"])
    units = units_of(load_study(path), ["north", "south-2"])
    assert [unit.name for unit in units[:4]] == ["-3-before", "-3-alone-north", "-3-alone-south-2", "-3-left_out-north"]
    assert [Unit.named(unit.name) for unit in units] == units


def test_the_page_on_studies_lists_every_key_with_its_default_and_every_arm() -> None:
    page = (ROOT / "docs" / "studies.md").read_text()
    listed = dict(
        re.findall(r"^\| `([a-z]+)` \| [^|]+ \| (\S[^|]*?) \|", page.partition("## The study file")[2], re.MULTILINE)
    )
    required = {name for name, field in StudyConfig.model_fields.items() if field.is_required()}
    assert {name for name, default in listed.items() if default == "required"} == required
    defaults = {name: field.default for name, field in StudyConfig.model_fields.items() if name not in required}
    assert {name: default.strip("`") for name, default in listed.items() if name not in required} == {
        name: json.dumps(default) for name, default in defaults.items()
    }
    arms = re.findall(r"^\| `([a-z_]+)` \|", page.partition("## Arms")[2].partition("## ")[0], re.MULTILINE)
    assert arms == list(get_args(Arm))


def test_a_codebook_drafted_from_records_has_no_private_arms(tmp_path: Path) -> None:
    drafted = (ROOT / "configs" / "registries" / "support2.toml").read_text()
    (tmp_path / "drafted.toml").write_text(f"private = true\n{drafted}")
    named = {
        "view": "bedside",
        "codebook": "drafted.toml",
        "codebook_sha256": load_codebook(tmp_path / "drafted.toml").sha256,
    }
    changes = {"run": {"questions": named}}
    assert load_study(written(tmp_path, **changes)).codebook.private
    private = {"arms": ["before", "local"], "private": {"privacy": PRIVACY | {"noise_multiplier": 1.0}}}
    with pytest.raises(FedReasonError) as refusal:
        load_study(written(tmp_path, **changes, **private))
    assert refusal.value.code == Code.CODEBOOK_PRIVATE


def test_an_arm_is_of_all_sites_whatever_quorum_its_run_has(tmp_path: Path) -> None:
    private = {"privacy": PRIVACY | {"colluders": 1, "dropouts": 1}}
    federation = {"sites": 5, "quorum": 4, "population": 300}
    path = written(tmp_path, arms=["federated", "distributed"], private=private, run={"federation": federation})
    study = load_study(path)
    assert study.private is not None
    assert study.plain.quorum == study.private.quorum == study.run_of("distributed", 4).quorum == 5
