"""The site's own limits, `policy.toml`: a run that asks for more is refused, and no message can change them.

A key that the file leaves out has the value below, which is strict: private runs in the usual range, and no more.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from client.policy.limits import PatientUnit, PrivacyLimits
from client.policy.signature import Approval, approval
from common.config import TINY, ModelConfig, Positive, RunConfig
from common.errors import Code, FedReasonError
from common.toml import Strict, validated

POLICY_FILE = "policy.toml"
ANY = "*"

Metrics = Literal["none", "noised", "plain"]

_HIGHEST = {
    "max_prompt_tokens": "grpo.max_prompt_tokens",
    "max_completion_tokens": "grpo.max_completion_tokens",
    "max_temperature": "grpo.temperature",
    "max_group_size": "grpo.group_size",
    "max_questions": "questions.per_patient",
    "max_rounds": "federation.rounds",
}
_LOWEST = {"min_temperature": "grpo.temperature", "min_top_p": "grpo.top_p"}
_HIGHEST_PRIVATE = {
    "privacy.delta": "privacy.delta",
    "privacy.max_clip_norm": "privacy.clip_norm",
    "privacy.max_sampling_rate": "federation.sampling_rate",
}
_LOWEST_PRIVATE = {
    "privacy.min_noise_multiplier": "privacy.noise_multiplier",
    "privacy.min_answer_every": "privacy.answer_every",
}
_LOWEST_SHARED = {"privacy.min_colluders": "privacy.colluders", "privacy.min_dropouts": "privacy.dropouts"}
"""Limit of the policy -> key of the run; the private ones are compared for runs that state [privacy]."""

_SITES_PRIVATE, _SITES = 3, 5
"""Fewest sites of a round where the policy does not say: of a private run, of another."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Policy(Strict):
    """Content of policy.toml.

    Parameters
    ----------
    metrics
        "none" lets no count of rewards or right answers leave; "noised" lets held-out counts leave with the noise that
        the run states and the ledger charges, and none of a run that states none; "plain" sends them as they are and is
        for data that is nobody's.
    base_models
        Models that may be trained: "tiny", a folder of this machine, a hub id with its revision (`org/name@revision`),
        the SHA-256 of a manifest, or "*" for any.
    protocols
        What may be sent: the sum of the patients' gradients ("fedsgd"), the change of several local steps ("fedavg").
    views
        Views of the codebook that questions may show; empty for any.
    items
        Features and tasks of the codebook that may be asked; empty for any.
    max_prompt_tokens, max_completion_tokens
        Longest question and answer, which bound the memory and time of the GPU.
    min_temperature, max_temperature, min_top_p
        How completions may be sampled: outside lies what makes a model's numbers overflow, or one patient stand out.
    max_group_size, max_questions
        Completions of a question, and questions of a patient in a step: memory again, and time.
    max_attempts
        How often a site computes its part of one round: each time anew, and charged anew where the run is private.
    max_rounds
        Rounds of one run.
    patient
        Who a patient is: the unit of privacy.
    privacy
        Limits that bound what can be learned of a patient.
    """

    metrics: Metrics = "none"
    base_models: tuple[str, ...] = (TINY,)
    protocols: tuple[Literal["fedsgd", "fedavg"], ...] = ("fedsgd",)
    views: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    max_prompt_tokens: Positive = 9000
    max_completion_tokens: Positive = 2000
    min_temperature: float = Field(default=0.1, gt=0)
    max_temperature: float = Field(default=2.0, gt=0)
    min_top_p: float = Field(default=0.1, gt=0, le=1)
    max_group_size: Positive = 64
    max_questions: Positive = 16
    max_attempts: Positive = 3
    max_rounds: Positive = 1000
    patient: PatientUnit = PatientUnit()
    privacy: PrivacyLimits = PrivacyLimits()

    @field_validator("base_models")
    @classmethod
    def _pinned(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if "/" in name and not name.startswith(("/", "./", "../", "~")) and "@" not in name:
                raise ValueError(f"a hub id ({name}) needs its revision: {name}@<revision>")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if self.privacy.required and self.metrics == "plain":
            raise ValueError('privacy.required = true contradicts metrics = "plain", which sends counts without noise')
        return self

    @property
    def requires_privacy(self) -> bool:
        """Whether only differentially private runs are accepted."""
        return self.metrics != "plain" if self.privacy.required is None else self.privacy.required

    @property
    def floors(self) -> tuple[int, int]:
        """How many sites must at least make a round of a private run, and of another."""
        if self.privacy.min_sites is not None:
            return self.privacy.min_sites, self.privacy.min_sites
        return (1, 1) if self.metrics == "plain" else (_SITES_PRIVATE, _SITES)

    def fewest_sites(self, config: RunConfig) -> int:
        """Return how many sites must at least make a round of a run."""
        private, other = self.floors
        return other if config.privacy is None else private

    def metrics_of(self, config: RunConfig) -> Metrics:
        """Return how the counts of a run may leave: "noised" needs a run that says with how much noise."""
        noised = config.privacy is not None and config.privacy.metrics_noise_multiplier is not None
        return "none" if self.metrics == "noised" and not noised else self.metrics

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

    def delta_of(self, config: RunConfig) -> float:
        """Return the delta at which what leaves for a run is charged: the policy's, or the run's if smaller."""
        own = self.privacy.delta
        return own if config.privacy is None else min(own, config.privacy.delta)

    def refuse_attempt(self, run: str, before: int) -> None:
        """Refuse to compute a part of a round once more than this site allows.

        Parameters
        ----------
        before
            How often it was begun already, or the number of the attempt, which counts from 0.

        Raises
        ------
        FedReasonError
            POLICY_REFUSED.
        """
        if not 0 <= before < self.max_attempts:
            raise FedReasonError(
                Code.POLICY_REFUSED,
                f"Run '{run}' asks for attempt {before + 1} at a round; max_attempts of {POLICY_FILE} is "
                f"{self.max_attempts}.",
                "Nothing was computed. Attempts count for the run's name, whatever else changed in it: the run goes "
                "on without this site, is begun anew under another name, or the site allows more.",
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
        asked = config.questions.weights
        if self.items and not asked:
            told.append(f"questions.weights is empty and asks everything, not only items of {POLICY_FILE}")
        elif self.items and (others := sorted(asked.keys() - set(self.items))):
            told.append(f"questions.weights {', '.join(others)}: not in items of {POLICY_FILE}")
        told += [*self._above(config, _HIGHEST), *self._below(config, _LOWEST)]
        return [*told, *self._private_problems(config)]

    def _private_problems(self, config: RunConfig) -> Iterator[str]:
        """Yield what makes a run less private than this policy wants it."""
        if self.privacy.secure_aggregation and not config.secure:
            yield f'federation.aggregation "plain", privacy.secure_aggregation of {POLICY_FILE} demands "secure"'
        if config.quorum < (floor := self.fewest_sites(config)):
            key = "federation.sites" if config.federation.quorum is None else "federation.quorum"
            yield f"{key} {config.quorum} < {floor} (privacy.min_sites) of {POLICY_FILE}"
        if config.privacy is None:
            if self.requires_privacy:
                yield f"[privacy] is not stated, privacy.required of {POLICY_FILE} demands it"
            return
        if config.privacy.noise == "distributed" and not self.privacy.shared_noise:
            yield f'privacy.noise "distributed", and privacy.shared_noise of {POLICY_FILE} does not allow it'
        yield from self._above(config, _HIGHEST_PRIVATE)
        if config.private_steps > (steps := self.privacy.max_steps):
            yield (
                f"federation.rounds x federation.local_steps {config.private_steps} > {steps} (privacy.max_steps) "
                f"of {POLICY_FILE}"
            )
        yield from self._below(config, _LOWEST_PRIVATE)
        if self.metrics_of(config) == "noised":
            yield from self._below(config, {"privacy.min_noise_multiplier": "privacy.metrics_noise_multiplier"})
        if config.federation.protocol == "fedsgd":
            yield from self._below(config, _LOWEST_SHARED)

    def _above(self, config: RunConfig, keys: dict[str, str]) -> Iterator[str]:
        for limit, key in keys.items():
            highest, asked = attrgetter(limit)(self), attrgetter(key)(config)
            if highest is not None and asked > highest:
                yield f"{key} {asked} > {highest} ({limit}) of {POLICY_FILE}"

    def _below(self, config: RunConfig, keys: dict[str, str]) -> Iterator[str]:
        for limit, key in keys.items():
            lowest, asked = attrgetter(limit)(self), attrgetter(key)(config)
            if asked < lowest:
                yield f"{key} {asked} < {lowest} ({limit}) of {POLICY_FILE}"


@dataclass(frozen=True)
class PolicyInForce:
    """A policy as it was read, once.

    Attributes
    ----------
    sha256
        Of the file's bytes; what the ledger records and the officer signed.
    approval
        Who signed it and when; None where the site pinned no officer's key.
    """

    policy: Policy
    sha256: str
    approval: Approval | None


def read_policy(folder: Path) -> PolicyInForce:
    """Read `policy.toml` of a site folder, and check the officer's signature over the very bytes that are used.

    Raises
    ------
    FedReasonError
        POLICY_MISSING where it cannot be read, POLICY_SIGNATURE where the pinned officer did not sign it; else where it
        is no TOML, holds an unknown key or a bad value.
    """
    path = folder / POLICY_FILE
    content = policy_bytes(path)
    signed = approval(folder, path, content)
    return PolicyInForce(parsed_policy(content, path), hashlib.sha256(content).hexdigest(), signed)


def load_policy(folder: Path) -> Policy:
    """Return the policy of a site folder; refuses as `read_policy` does."""
    return read_policy(folder).policy


def policy_bytes(path: Path) -> bytes:
    """Return the content of a policy file; POLICY_MISSING where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        fix = "Copy the template from the site's kit and have the site's privacy officer fill it in."
        raise FedReasonError(Code.POLICY_MISSING, f"{path} {what}.", fix) from None


def parsed_policy(content: bytes, path: Path) -> Policy:
    """Return what a policy file says; a byte order mark before it says nothing, and is hashed and signed with the rest.

    Raises
    ------
    FedReasonError
        Where it is no TOML, holds an unknown key or a bad value; with its line.
    """
    try:
        text = content.decode("utf-8-sig")
        table = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = "UTF-8" if isinstance(error, UnicodeDecodeError) else f"valid TOML: {error}"
        raise FedReasonError(Code.CONFIG_SYNTAX, f"{path} is not {why}.", "Correct that line.") from None
    return validated(Policy, table, path=path, text=text, unknown=Code.CONFIG_UNKNOWN_KEY, value=Code.CONFIG_VALUE)


def _name(model: ModelConfig) -> str:
    return f"{model.base}@{model.revision}" if model.revision else model.base


def _is(model: ModelConfig, allowed: str) -> bool:
    """Whether a policy's entry names this model; a manifest's hash does so whatever the folder is called."""
    if _SHA256.fullmatch(allowed):
        return model.manifest_sha256 == allowed
    return allowed in (ANY, _name(model))
