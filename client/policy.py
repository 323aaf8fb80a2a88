"""The site's own limits, `policy.toml`: a run that asks for more is refused, and no message can change them.

A key that the file leaves out has the value below, which allows a run with default values and no more.
"""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from common.config import TINY, ModelConfig, Positive, RunConfig
from common.errors import Code, FedReasonError
from common.toml import Strict, read_toml, validated

POLICY_FILE = "policy.toml"
ANY = "*"

_HIGHEST = {
    "max_prompt_tokens": "grpo.max_prompt_tokens",
    "max_completion_tokens": "grpo.max_completion_tokens",
    "max_rounds": "federation.rounds",
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Policy(Strict):
    """Content of policy.toml.

    Parameters
    ----------
    metrics
        "none" lets no count of rewards or right answers leave; "plain" sends them and is for data that is nobody's.
    base_models
        Models that may be trained: "tiny", a folder of this machine, a hub id with its revision (`org/name@revision`),
        the SHA-256 of a manifest, or "*" for any.
    protocols
        What may be sent: the sum of the patients' gradients ("fedsgd"), the change of several local steps ("fedavg").
    views
        Views of the codebook that questions may show; empty for any.
    max_prompt_tokens, max_completion_tokens
        Longest question and answer, which bound the memory and time of the GPU.
    max_rounds
        Rounds of one run; None for any number.
    """

    metrics: Literal["none", "plain"] = "none"
    base_models: tuple[str, ...] = (TINY,)
    protocols: tuple[Literal["fedsgd", "fedavg"], ...] = ("fedsgd",)
    views: tuple[str, ...] = ()
    max_prompt_tokens: Positive = 9000
    max_completion_tokens: Positive = 2000
    max_rounds: int | None = Field(default=None, ge=1)

    @field_validator("base_models")
    @classmethod
    def _pinned(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if "/" in name and not name.startswith(("/", "./", "../", "~")) and "@" not in name:
                raise ValueError(f"a hub id ({name}) needs its revision: {name}@<revision>")
        return value

    def refuse(self, config: RunConfig) -> None:
        """Refuse a run that asks for more than this site allows, with every such key.

        Raises
        ------
        FedReasonError
            POLICY_REFUSED, naming the keys of the run and of the policy.
        """
        if problems := self.problems(config):
            raise FedReasonError(
                Code.POLICY_REFUSED,
                f"Run '{config.name}' asks for more than {POLICY_FILE} allows: {'; '.join(problems)}.",
                "Nothing was computed. The coordinator can change the run, or the site its policy.",
            )

    def problems(self, config: RunConfig) -> list[str]:
        """Return every key of a run that goes beyond this policy, in words."""
        told = []
        if not any(_is(config.model, allowed) for allowed in self.base_models):
            told.append(f'model.base "{_name(config.model)}" is not in base_models of {POLICY_FILE}')
        if config.federation.protocol not in self.protocols:
            told.append(f'federation.protocol "{config.federation.protocol}" is not in protocols of {POLICY_FILE}')
        if self.views and config.questions.view not in self.views:
            told.append(f'questions.view "{config.questions.view}" is not in views of {POLICY_FILE}')
        for limit, key in _HIGHEST.items():
            highest, asked = getattr(self, limit), attrgetter(key)(config)
            if highest is not None and asked > highest:
                told.append(f"{key} {asked} > {highest} ({limit}) of {POLICY_FILE}")
        return told


def load_policy(folder: Path) -> Policy:
    """Read `policy.toml` of a site folder.

    Raises
    ------
    FedReasonError
        POLICY_MISSING where it cannot be read; else where it is no TOML, holds an unknown key or a bad value.
    """
    path = folder / POLICY_FILE
    try:
        table, text = read_toml(path, missing=Code.POLICY_MISSING, syntax=Code.CONFIG_SYNTAX)
    except FedReasonError as error:
        if error.code is not Code.POLICY_MISSING:
            raise
        fix = "Copy the template from the site's kit and have the site's privacy officer fill it in."
        raise FedReasonError(Code.POLICY_MISSING, error.found, fix) from None
    return validated(Policy, table, path=path, text=text, unknown=Code.CONFIG_UNKNOWN_KEY, value=Code.CONFIG_VALUE)


def _name(model: ModelConfig) -> str:
    return f"{model.base}@{model.revision}" if model.revision else model.base


def _is(model: ModelConfig, allowed: str) -> bool:
    """Whether a policy's entry names this model; a manifest's hash does so whatever the folder is called."""
    if _SHA256.fullmatch(allowed):
        return model.manifest_sha256 == allowed
    return allowed in (ANY, _name(model))
