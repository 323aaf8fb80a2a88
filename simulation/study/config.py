"""The study file: which run is repeated over which seeds, in which arms, and what will be compared, said beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from client.privacy.validity import require_valid_privacy
from common.codebook import Codebook
from common.config import RunConfig, with_codebook
from common.errors import Code, FedReasonError
from common.questions.question import LETTERS
from common.toml import Strict, read_toml, validated

Arm = Literal["majority", "boosting", "before", "alone", "left_out", "federated", "pooled", "local", "distributed"]
"""`local` and `distributed` are the federation under differential privacy, by who adds the noise."""
PRIVATE: tuple[Arm, ...] = ("local", "distributed")
BY_SITE: tuple[Arm, ...] = ("alone", "left_out")
"""Arms with an adapter for each site: its own, and that of all the others, which it alone is asked with."""
REFERENCES: tuple[Arm, ...] = ("majority", "boosting")
"""What answers without a language model."""
OWN, CHANCE = "own", "chance"
"""Further sides of a comparison: each site's own adapter on its own patients, and drawing a letter."""

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What the column of the table holds."""


class StudyConfig(Strict):
    """A study, as its file states it.

    `run` changes keys of the run configuration in all arms, `private` those of [privacy], [optimizer] and [lattice] in
    the private ones: steps and rollouts are the same everywhere. `outcomes` names the event of a task that has one,
    `subgroups` columns with where a number's bands begin.
    """

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    config: str = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    arms: tuple[Arm, ...] = Field(min_length=1)
    comparisons: tuple[tuple[str, str], ...] = ()
    outcomes: dict[str, str] = {}
    subgroups: dict[str, tuple[float, ...]] = {}
    resamples: int = Field(default=1999, ge=99, le=100_000)
    run: dict[str, Any] = {}
    private: dict[str, Any] = {}

    @field_validator("seeds", "arms", "comparisons")
    @classmethod
    def _once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each may be named once")
        return value

    @field_validator("private")
    @classmethod
    def _as_much_work(cls, value: dict[str, Any]) -> dict[str, Any]:
        if others := sorted(set(value) - {"privacy", "optimizer", "lattice"}):
            raise ValueError(f"{', '.join(others)} would be another run: privacy, optimizer and lattice may differ")
        return value

    @field_validator("run")
    @classmethod
    def _of_the_study(cls, value: dict[str, Any]) -> dict[str, Any]:
        if others := sorted({"name", "seed", "privacy"} & set(value)):
            raise ValueError(f"{', '.join(others)} cannot be changed here: the study has name and seeds, and [private]")
        return value

    @model_validator(mode="after")
    def _comparable(self) -> StudyConfig:
        known = {*self.arms, CHANCE, *([OWN] if "alone" in self.arms else [])}
        for one, other in self.comparisons:
            if one == other or not {one, other} <= known:
                raise ValueError(f"{one} and {other} are no two of {', '.join(sorted(known))}")
        return self


@dataclass(frozen=True)
class Study:
    """A study ready to run: its file, the run of its plain arms and that of its private ones, its codebook."""

    config: StudyConfig
    plain: RunConfig
    private: RunConfig | None
    codebook: Codebook
    base: Path
    """Folder that relative paths of the run start from."""

    @property
    def sha256(self) -> str:
        """Hash of everything that decides what comes out."""
        runs = [self.plain.sha256, self.private.sha256 if self.private else ""]
        return hashlib.sha256("\n".join([self.config.model_dump_json(), *runs]).encode()).hexdigest()

    def run_of(self, arm: Arm, seed: int) -> RunConfig:
        """Return the run of an arm: as many steps and rollouts in each."""
        if arm not in PRIVATE:
            return self.plain.model_copy(update={"seed": seed})
        assert self.private is not None and self.private.privacy is not None
        changes: dict[str, Any] = {"seed": seed}
        if arm == "local":
            alone = {"noise": "local", "colluders": 0, "dropouts": 0}
            changes["privacy"] = self.private.privacy.model_copy(update=alone)
            changes["federation"] = self.private.federation.model_copy(update={"aggregation": "plain"})
        return self.private.model_copy(update=changes)


class _Changed(Strict):
    """The run as a study changes it, so that a refusal names the study's own key."""

    run: RunConfig


class _Private(Strict):
    """The run of the private arms."""

    private: RunConfig


def load_study(path: Path) -> Study:
    """Read a study file and the run configuration and codebook that it names.

    Raises
    ------
    FedReasonError
        Where one cannot be read, or holds an unknown key or a bad value.
    """
    table, text = read_toml(path, missing=Code.CONFIG_MISSING, syntax=Code.CONFIG_SYNTAX)
    refusals = {"unknown": Code.CONFIG_UNKNOWN_KEY, "value": Code.CONFIG_VALUE}
    config = validated(StudyConfig, table, path=path, text=text, **refusals)
    source = path.parent / config.config
    base, base_text = read_toml(source, missing=Code.CONFIG_MISSING, syntax=Code.CONFIG_SYNTAX)
    validated(RunConfig, base, path=source, text=base_text, **refusals)
    merged = over(base, config.run) | {"name": config.name}
    run = validated(_Changed, {"run": merged}, path=path, text=text, **refusals).run
    run, codebook = with_codebook(run.model_copy(update={"privacy": None, "guard": None}), source, path)
    if run.grpo.prompt.answer != "letter":
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{source} has answers told by text, and a study asks how likely each letter is.",
            'Say grpo.prompt.answer = "letter".',
        )
    if "left_out" in config.arms and run.federation.sites < 2:
        raise FedReasonError(
            Code.CONFIG_VALUE, f"{path} leaves sites out in turn, and there is one.", "Take the arm left_out away."
        )
    check_columns(config, codebook, path)
    # An arm of fewer sites than it names would be another arm: all of them are there, and a refusal ends it.
    everybody: dict[str, Any] = {"quorum": None}
    federation = run.federation.model_copy(update=everybody | {"aggregation": "plain"})
    plain = run.model_copy(update={"federation": federation})
    private = None
    if set(config.arms) & set(PRIVATE):
        private, _ = with_codebook(_private_run(config, merged, path, text), source, path)
        federation = private.federation.model_copy(update=everybody)
        private = private.model_copy(update={"guard": None, "federation": federation})
    study = Study(config, plain, private, codebook, source.parent)
    for arm in PRIVATE:
        if arm in config.arms:
            require_valid_privacy(study.run_of(arm, config.seeds[0]), codebook)
    return study


def _private_run(config: StudyConfig, merged: dict[str, Any], path: Path, text: str) -> RunConfig:
    """Return the run of the private arms, secure where the sites share the noise."""
    table = over(merged, config.private)
    if "privacy" not in table:
        raise FedReasonError(
            Code.CONFIG_VALUE, f"{path} has private arms, and no [private.privacy].", "State it, or leave the arms out."
        )
    if "distributed" in config.arms:
        table = over(table, {"privacy": {"noise": "distributed"}, "federation": {"aggregation": "secure"}})
    else:
        table = over(table, {"federation": {"aggregation": "plain"}})
    return validated(
        _Private,
        {"private": table},
        path=path,
        text=text,
        unknown=Code.CONFIG_UNKNOWN_KEY,
        value=Code.CONFIG_VALUE,
    ).private


def over(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with some keys changed, whatever the depth; weights are replaced as a whole."""
    result = dict(table)
    for key, value in changes.items():
        inside = result.get(key)
        if isinstance(inside, Mapping) and isinstance(value, Mapping) and key != "weights":
            value = over(inside, value)
        result[key] = value
    return result


def check_columns(config: StudyConfig, codebook: Codebook, path: Path) -> None:
    """Refuse outcomes and subgroups that the codebook does not have."""
    tasks = {task.name: task for task in codebook.tasks if task.kind == "outcome"}

    def refuse(found: str, fix: str) -> FedReasonError:
        return FedReasonError(Code.CONFIG_VALUE, f"{path}: {found}.", fix)

    for name, event in config.outcomes.items():
        if name not in tasks:
            known = ", ".join(sorted(tasks)) or "none"
            raise refuse(f"outcomes.{name} is no outcome task of the codebook", f"It has: {known}.")
        categories = codebook.by_name[tasks[name].feature].categories.values()
        if event not in categories:
            known = ", ".join(dict.fromkeys(categories)) or "none, since it is a number"
            raise refuse(f"outcomes.{name} names no category of {tasks[name].feature}", f"They are: {known}.")
        if len(set(categories)) > len(LETTERS):
            raise refuse(
                f"outcomes.{name} has more categories than a question has choices, and would leave out those to whom "
                "the event did not happen and was not offered",
                "Make it two categories in the codebook: the event, and all else.",
            )
    for name, cuts in config.subgroups.items():
        feature = codebook.by_name.get(name)
        if feature is None or feature.kind == "text":
            raise refuse(f"subgroups.{name} is no number or category of the codebook", "Name a feature.")
        if feature.kind == "numeric" and (not cuts or list(cuts) != sorted(set(cuts))):
            raise refuse(f"subgroups.{name} is a number", "State where its bands begin, in ascending order.")
        if feature.kind == "categorical" and cuts:
            raise refuse(f"subgroups.{name} has categories", "Leave its list empty.")
