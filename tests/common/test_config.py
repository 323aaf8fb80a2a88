"""The run configuration: what is refused and where, what its hash depends on, and that every key is documented."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from client.policy.policy import Policy
from client.site.config import SiteConfig, load_site
from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError
from server.models.course import Course, load_course
from tests.paths import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
RUN = """\
name = "small"
seed = 1

[model]
base = "tiny"

[adapter]
rank = 16
target_modules = "all-linear"

[questions]
view = "core"
held_out = 0.4

[questions.weights]
antibiotic = 35.0
fluid_volume = 17.5
platelets = 3.75

[grpo]
temperature = 1.0

[federation]
name = "small"
protocol = "fedsgd"
rounds = 70
sites = 3
population = 900
sampling_rate = 0.02

[optimizer]
learning_rate = 1e-3

[evaluation]
per_patient = 2

[simulation]
hospitals = ["north", "south", "west"]
patients = 500
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def refusal(path: Path) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        load_config(path)
    return caught.value


def line(text: str, beginning: str) -> int:
    return next(number for number, row in enumerate(text.splitlines(), 1) if row.startswith(beginning))


def loaded(folder: Path, table: dict[str, Any]) -> RunConfig:
    return load_config(written(folder, tomli_w.dumps(table)))[0]


def reordered(table: dict[str, Any]) -> dict[str, Any]:
    backwards = reversed(list(table.items()))
    return {key: reordered(value) if isinstance(value, dict) else value for key, value in backwards}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_project_loads(path: Path) -> None:
    config, codebook = load_config(path)
    assert config.name == path.stem
    assert config.questions.codebook_sha256 == codebook.sha256


def test_the_real_runs_are_the_ones_of_the_paper_and_of_qwen() -> None:
    phi4, _ = load_config(ROOT / "configs" / "phi4.toml")
    assert (phi4.model.base, phi4.model.dtype) == ("microsoft/phi-4", "bfloat16")
    assert phi4.adapter.target_modules == ("qkv_proj",)
    assert (phi4.grpo.group_size, phi4.grpo.max_prompt_tokens, phi4.grpo.max_completion_tokens) == (7, 9000, 2000)
    qwen, _ = load_config(ROOT / "configs" / "qwen.toml")
    assert qwen.adapter.target_modules == ("q_proj", "v_proj")
    assert [(run.grpo.decode, run.grpo.decode_groups) for run in (phi4, qwen)] == [("together", None), ("together", 8)]


@pytest.mark.parametrize(
    ("after", "wrong", "name"),
    [
        ("seed = 1", "sede = 2", "sede"),
        ("rank = 16", "ranks = 8", "adapter.ranks"),
        ("held_out = 0.4", "heldout = 0.3", "questions.heldout"),
        ("patients = 500", "beds = 12", "simulation.beds"),
    ],
)
def test_an_unknown_key_is_refused_with_file_and_line(tmp_path: Path, after: str, wrong: str, name: str) -> None:
    text = RUN.replace(after, f"{after}\n{wrong}")
    path = written(tmp_path, text)
    error = refusal(path)
    assert error.code == Code.CONFIG_UNKNOWN_KEY
    assert f"{path}: line {line(text, wrong)}, {name}: is not a known key" in error.found
    assert "docs/configuration.md" in error.fix


def test_an_unknown_table_is_refused_with_its_line(tmp_path: Path) -> None:
    text = RUN + "\n[secrecy]\nclip = 1.0\n"
    error = refusal(written(tmp_path, text))
    assert error.code == Code.CONFIG_UNKNOWN_KEY
    assert f"line {line(text, '[secrecy]')}, secrecy" in error.found


def test_every_unknown_key_is_told_at_once(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, RUN.replace("seed = 1", "seeds = 1").replace("rank = 16", "ranks = 16")))
    assert "seeds" in error.found and "adapter.ranks" in error.found


@pytest.mark.parametrize(
    ("right", "wrong", "name"),
    [
        ("rounds = 70", 'rounds = "many"', "federation.rounds"),
        ("rounds = 70", "rounds = 0", "federation.rounds"),
        ("rank = 16", "rank = 1.5", "adapter.rank"),
        ("held_out = 0.4", "held_out = 40", "questions.held_out"),
        ('protocol = "fedsgd"', 'protocol = "gossip"', "federation.protocol"),
        ("antibiotic = 35.0", "antibiotic = -1.0", "questions.weights.antibiotic"),
        ("learning_rate = 1e-3", "learning_rate = nan", "optimizer.learning_rate"),
        ("learning_rate = 1e-3", "learning_rate = inf", "optimizer.learning_rate"),
        ("temperature = 1.0", "temperature = inf", "grpo.temperature"),
        ('base = "tiny"', 'quantization = "nf4"', "model.quantization"),
    ],
)
def test_a_bad_value_is_refused_with_file_and_line(tmp_path: Path, right: str, wrong: str, name: str) -> None:
    text = RUN.replace(right, wrong)
    assert text != RUN
    path = written(tmp_path, text)
    error = refusal(path)
    assert error.code == Code.CONFIG_VALUE
    assert f"{path}: line {line(text, wrong)}, {name}: " in error.found


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sites = 3", "sites = 3\nquorum = 4"),
        ("sites = 3", "sites = 3\nlocal_steps = 2"),
        ('base = "tiny"', 'base = "microsoft/phi-4"'),
        ('name = "small"', 'name = "a/b"'),
        ('name = "small"', 'name = "."'),
        ('name = "small"', 'name = ".."'),
        ('name = "small"', f'name = "{"n" * 101}"'),
        ("antibiotic = 35.0", "antibotic = 35.0"),
    ],
    ids=[
        *("quorum above sites", "local steps in fedsgd", "hub model unpinned", "name of a path", "name of this folder"),
        *("name of the folder above", "name longer than files have", "weight of nothing"),
    ],
)
def test_values_that_contradict_each_other_are_refused(tmp_path: Path, right: str, wrong: str) -> None:
    text = RUN.replace(right, wrong, 1)
    assert text != RUN
    assert refusal(written(tmp_path, text)).code == Code.CONFIG_VALUE


def test_a_name_may_hold_dots_and_be_as_long_as_a_file_s_leaves_room_for(tmp_path: Path) -> None:
    for name in ("..a", "v1.2.", "n" * 100):
        assert load_config(written(tmp_path, RUN.replace('name = "small"', f'name = "{name}"', 1)))[0].name == name


@pytest.mark.parametrize("name", [".", "..", "n" * 101])
def test_a_site_is_named_by_the_same_rule(tmp_path: Path, name: str) -> None:
    (tmp_path / "site.toml").write_text(f'name = "{name}"\n\n[registry]\npath = "registry.csv"\n')
    with pytest.raises(FedReasonError) as caught:
        load_site(tmp_path)
    assert caught.value.code == Code.CONFIG_VALUE and "line 1, name" in caught.value.found


@pytest.mark.parametrize("key", ["target_modules", "per_patient"])
def test_a_value_of_neither_kind_is_told_by_its_key_alone(tmp_path: Path, key: str) -> None:
    error = refusal(written(tmp_path, re.sub(rf"(?m)^{key} = .*$", f"{key} = {{ a = 1 }}", RUN)))
    assert error.code == Code.CONFIG_VALUE
    assert set(re.findall(r"line \d+, [a-z_]+\.([^:]+): ", error.found)) == {key}


def test_a_missing_required_key_is_named(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, RUN.replace("rounds = 70\n", "")))
    assert error.code == Code.CONFIG_VALUE
    assert "federation.rounds" in error.found


def test_a_file_that_is_absent_or_not_text_or_not_toml_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml").code == Code.CONFIG_MISSING
    assert refusal(tmp_path).code == Code.CONFIG_MISSING
    assert refusal(written(tmp_path, "name = demo")).code == Code.CONFIG_SYNTAX
    (tmp_path / "run.toml").write_bytes(b'name = "\xff"')
    assert refusal(tmp_path / "run.toml").code == Code.CONFIG_MISSING


def test_a_view_that_the_codebook_lacks_is_refused(tmp_path: Path) -> None:
    error = refusal(written(tmp_path, RUN.replace('view = "core"', 'view = "heart"')))
    assert error.code == Code.CODEBOOK_REFERENCE
    assert "core" in error.fix


def test_another_codebook_than_the_stated_one_is_refused(tmp_path: Path) -> None:
    stated = f'codebook_sha256 = "{"0" * 64}"'
    error = refusal(written(tmp_path, RUN.replace('view = "core"', f'view = "core"\n{stated}')))
    assert error.code == Code.CODEBOOK_CHANGED


def test_the_stated_codebook_is_accepted_and_leaves_the_hash(tmp_path: Path) -> None:
    config, codebook = load_config(written(tmp_path, RUN))
    stated = f'view = "core"\ncodebook_sha256 = "{codebook.sha256}"'
    again, _ = load_config(written(tmp_path, RUN.replace('view = "core"', stated)))
    assert again.sha256 == config.sha256


def test_the_hash_depends_on_neither_order_nor_comments_nor_spelled_out_defaults(tmp_path: Path) -> None:
    config, _ = load_config(written(tmp_path, RUN))
    table = tomllib.loads(RUN)
    assert loaded(tmp_path, reordered(table)).sha256 == config.sha256
    assert loaded(tmp_path, table | {"lattice": {"bits": 40}}).sha256 == config.sha256
    assert load_config(written(tmp_path, "# a comment\n\n" + RUN))[0].sha256 == config.sha256


@pytest.mark.filterwarnings("ignore:Pydantic serializer")
def test_any_changed_value_changes_the_hash(tmp_path: Path) -> None:
    config, _ = load_config(written(tmp_path, RUN))
    hashes = {config.sha256}
    changed = 1
    for variant in variants(config):
        hashes.add(variant.sha256)
        changed += 1
    assert changed > 40
    assert len(hashes) == changed


def variants(model: BaseModel) -> list[Any]:
    """Return copies of a model, each with another value in one place."""
    result: list[Any] = []
    for name in type(model).model_fields:
        value = getattr(model, name)
        changed = variants(value) if isinstance(value, BaseModel) else [another(value)]
        result.extend(model.model_copy(update={name: other}) for other in changed)
    return result


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, "x")
        case dict():
            return {**value, "x": 1.0}
        case None:
            return "x"
        case _:
            raise TypeError(type(value))


def test_a_configuration_survives_its_way_to_a_site() -> None:
    config, _ = load_config(ROOT / "configs" / "phi4.toml")
    assert RunConfig.model_validate_json(config.model_dump_json()).sha256 == config.sha256


def test_a_quorum_left_out_means_all_sites(tmp_path: Path) -> None:
    small, _ = load_config(written(tmp_path, RUN))
    phi4, _ = load_config(ROOT / "configs" / "phi4.toml")
    assert (small.quorum, phi4.quorum) == (3, 8)


def test_the_divisor_is_public_patients_for_fedsgd_and_sites_for_fedavg() -> None:
    config, _ = load_config(ROOT / "configs" / "phi4.toml")
    assert config.divisor == pytest.approx(60)
    averaged = config.model_copy(update={"federation": config.federation.model_copy(update={"protocol": "fedavg"})})
    assert averaged.divisor == 10


def test_an_unknown_key_of_a_site_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('name = "amc"\n\n[registry]\npath = "registry.csv"\ntabel = "x"\n')
    with pytest.raises(FedReasonError) as caught:
        load_site(tmp_path)
    assert caught.value.code == Code.CONFIG_UNKNOWN_KEY
    assert "line 5, registry.tabel" in caught.value.found


def documented() -> list[dict[str, str]]:
    """Return the documented default by key, of the run, of a site, of its policy and of a warm-up."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    parts = re.split(r"^## A [-\w]+'s `\w+\.toml`$", page, flags=re.MULTILINE)
    row = re.compile(r"^\| `([a-z0-9_.]+)` \| .+? \| (\S.*?) \| \S.* \|$", re.MULTILINE)
    return [dict(row.findall(part)) for part in parts]


def fields(model: type[BaseModel], before: str = "") -> dict[str, str]:
    """Return the default of every key as documentation writes it, by dotted name."""
    result: dict[str, str] = {}
    for own_name, field in model.model_fields.items():
        name = field.alias or own_name
        kinds = [
            kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(kind, type)
        ]
        table = next((kind for kind in kinds if issubclass(kind, BaseModel)), None)
        if table:
            result |= fields(table, f"{before}{name}.")
        elif field.default is PydanticUndefined:
            result[before + name] = "required"
        elif field.default is None:
            result[before + name] = "none"
        else:
            default = str(field.default) if isinstance(field.default, Path) else field.default
            result[before + name] = f"`{json.dumps(default)}`".replace("1e-08", "1e-8")
    return result


def test_the_documentation_lists_every_key_of_a_run_with_its_default() -> None:
    assert documented()[0] == fields(RunConfig)


def test_the_documentation_lists_every_key_of_a_site_with_its_default() -> None:
    assert documented()[1] == fields(SiteConfig)


def test_the_documentation_lists_every_key_of_a_policy_with_its_default() -> None:
    assert documented()[2] == fields(Policy)


def test_the_documentation_lists_every_key_of_a_warm_up_with_its_default() -> None:
    assert documented()[3] == fields(Course)


def test_the_real_language_model_is_asked_in_training_as_its_warm_up_taught_it() -> None:
    run, _ = load_config(ROOT / "configs" / "smollm2.toml")
    course, _ = load_course(ROOT / "configs" / "warmup" / "smollm2.toml")
    assert run.grpo.prompt == course.prompt and run.grpo.prompt.answer == "text"
    assert (run.questions.codebook, run.questions.view) in {
        (source.codebook.removeprefix("../"), source.view) for source in course.sources
    }


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "warmup").glob("*.toml")), ids=lambda path: path.name)
def test_every_warm_up_that_is_shipped_is_valid(path: Path) -> None:
    course, books = load_course(path)
    assert len(books) == len(course.sources)
