"""The run configuration: one TOML file per run, read by every party, its hash stated in every message.

It holds public values only. What a site allows stands in the site's own files.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.guard import GuardConfig
from common.sums import LARGEST_SECURE, is_none
from common.sums import LatticeConfig as LatticeConfig
from common.sums import PrivacyConfig as PrivacyConfig
from common.toml import Strict, read_toml, validated
from common.weights import TINY as TINY
from common.weights import AdapterConfig as AdapterConfig
from common.weights import ModelConfig as ModelConfig
from common.wording import PAPER as PAPER
from common.wording import AnswerForm as AnswerForm
from common.wording import PromptConfig as PromptConfig
from common.wording import is_paper

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

SYNTHETIC = "synthetic"


def _of_no_other_folder(name: str) -> str:
    if not name.strip("."):
        raise ValueError("dots alone name another folder")
    return name


FolderName = Annotated[
    str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$"), AfterValidator(_of_no_other_folder)
]
"""Name of what has a folder and files of that name."""


def _is_plain(value: str) -> bool:
    return value == "plain"


class QuestionsConfig(Strict):
    """Which questions are asked.

    `codebook` is "synthetic" or a path relative to the configuration; `weights` is the relative frequency by feature or
    task, empty for all alike; `held_out` is the share of patients kept for evaluation. `choices` come from the
    codebook alone, or are "empirical": fitted by each site on its own training patients, as C-Reason's are.
    """

    codebook: str = SYNTHETIC
    codebook_sha256: str | None = None
    view: str = "full"
    choices: Literal["codebook", "empirical"] = "codebook"
    per_patient: Positive = 1
    held_out: Share = 0.3
    weights: dict[str, Annotated[float, Field(gt=0, le=1e30)]] = {}

    @field_validator("weights")
    @classmethod
    def _in_one_order(cls, value: dict[str, float]) -> dict[str, float]:
        """Sort: questions are drawn in the order of the weights, which must not depend on the file's."""
        return dict(sorted(value.items()))


AnswerBox = Literal["first", "last"]
"""Which box counts where several hold an answer: C-Reason's first (arXiv 2505.02722), or the last, as most graders."""


class GrpoConfig(Strict):
    """Group-relative policy optimisation (arXiv 2402.03300), with constant normalisers (arXiv 2503.20783).

    `decode` says who is decoded with whom: one "patient" at a time, or whoever there is "together", in a fixed shape
    for `decode_groups` groups, so that a result depends on no one else either; where it is not stated each site takes
    as many as its share of a round has and its memory holds. `checkpointing` makes activations again in the backward
    pass, one question after another: memory for long prompts, for more time or less (docs/performance.md). `answer_box`
    says which box counts, in rewards and in evaluation, where several of a completion hold an answer. `prompt` is what
    a model reads beside the question, and what it is to box.
    """

    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, ge=1e-3, le=1e3)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_prompt_tokens: Positive = 9000
    max_completion_tokens: Positive = 2000
    answer_box: AnswerBox = "first"
    scale_rewards: Literal["none", "group"] = "none"
    kl: float = Field(default=0.0, ge=0, le=1e3)
    checkpointing: bool = False
    decode: Literal["patient", "together"] = "patient"
    decode_groups: Positive | None = None
    prompt: PromptConfig = Field(default=PAPER, exclude_if=is_paper)

    @field_validator("decode", mode="before")
    @classmethod
    def _of_today(cls, value: object) -> object:
        """Name the way out of what earlier versions took."""
        if value in ("slots", "free"):
            raise ValueError(f'"{value}" is no more: write "together", which takes its place; decode_groups may stay')
        return value

    @model_validator(mode="after")
    def _as_many_as_needed(self) -> GrpoConfig:
        if self.decode == "patient" and self.decode_groups is not None:
            raise ValueError('decode_groups belongs to decode = "together"')
        return self


class FederationConfig(Strict):
    """Who trains together and how. `sites` and `population` are public constants, never counts of a site.

    With `aggregation` "secure" the coordinator learns the sum over the sites and no site's own part of it.
    """

    name: str = Field(min_length=1)
    protocol: Literal["fedsgd", "fedavg"] = "fedsgd"
    rounds: Positive
    sites: Positive
    quorum: Positive | None = None
    population: int = Field(ge=1, le=10**12)
    sampling_rate: float = Field(ge=1e-9, le=1)
    aggregation: Literal["plain", "secure"] = Field(default="plain", exclude_if=_is_plain)
    local_steps: Positive = 1
    deadline: float = Field(default=3600.0, gt=0, description="seconds to wait for the replies of a round")

    @model_validator(mode="after")
    def _consistent(self) -> FederationConfig:
        if self.quorum is not None and self.quorum > self.sites:
            raise ValueError("quorum is larger than sites")
        if self.protocol == "fedsgd" and self.local_steps != 1:
            raise ValueError("local_steps belongs to fedavg; a round of fedsgd is one step")
        if self.aggregation == "secure" and (self.protocol != "fedsgd" or self.sites < 3):
            raise ValueError(
                'aggregation = "secure" needs protocol = "fedsgd" and 3 sites: of two, each knows the other'
            )
        return self


class OptimizerConfig(Strict):
    """The optimizer: at the server for fedsgd, at each site (afresh every round) for fedavg.

    The learning rate rises over `warmup_rounds`, stays, and falls to a tenth over the last `decay` share of the rounds.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(gt=0, le=1e6)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    second_momentum: float = Field(default=0.99, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, ge=1e-30, le=1)
    warmup_rounds: int = Field(default=5, ge=0)
    decay: Share = 0.4
    max_gradient_norm: float | None = Field(default=None, gt=0, le=1e30)


class EvaluationConfig(Strict):
    """Held-out questions: `per_patient` drawn by the weights, or every askable one; 0 in `every` is at the end only."""

    every: int = Field(default=10, ge=0)
    per_patient: Positive | Literal["all"] = "all"


class SimulationConfig(Strict):
    """Hospitals of a simulation: synthetic ones by name, or a real table split over `sites` by strata or by columns."""

    registry: str = SYNTHETIC
    hospitals: tuple[str, ...] = ()
    patients: Positive = 500
    stratify: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    alpha: float = Field(default=0.5, gt=0)
    processes: Positive = 2
    compare: bool = True


class RunConfig(Strict):
    """Everything that all parties of a run must agree on."""

    name: FolderName
    seed: int = 0
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    questions: QuestionsConfig = QuestionsConfig()
    grpo: GrpoConfig = GrpoConfig()
    federation: FederationConfig
    optimizer: OptimizerConfig
    lattice: LatticeConfig = LatticeConfig()
    privacy: PrivacyConfig | None = None
    evaluation: EvaluationConfig = EvaluationConfig()
    guard: GuardConfig | None = Field(default=None, exclude_if=is_none)
    simulation: SimulationConfig | None = None

    @model_validator(mode="after")
    def _alone(self) -> RunConfig:
        if self.privacy is not None and self.questions.choices != "codebook":
            raise ValueError('with [privacy] questions.choices must be "codebook": others look at other patients')
        if self.privacy is not None and 2 * self.privacy.answer_every > self.federation.deadline:
            raise ValueError("federation.deadline must be at least twice privacy.answer_every: answers wait for that")
        if self.guard is not None and self.guard.evaluators > self.quorum:
            raise ValueError(f"guard.evaluators is {self.guard.evaluators}, and {self.quorum} sites make a round")
        return self

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        clipped, secure = self.lattice.clip_norm is not None, self.secure
        if clipped and (self.privacy is not None or self.federation.protocol == "fedavg"):
            raise ValueError("lattice.clip_norm is for fedsgd without [privacy], which has a clip_norm of its own")
        if clipped and self.clip_units < 1:
            raise ValueError("lattice.clip_norm is less than one unit of the lattice, 2^-lattice.bits")
        if self.privacy is not None and self.privacy.noise == "distributed" and not secure:
            raise ValueError('privacy.noise = "distributed" needs federation.aggregation = "secure"')
        if secure and self.privacy is None and not clipped:
            raise ValueError('federation.aggregation = "secure" without [privacy] needs lattice.clip_norm')
        if secure and (most := self.most_units) > LARGEST_SECURE:
            keys = "lattice.bits or lattice.clip_norm" if clipped else "privacy.clip_units or federation.population"
            raise ValueError(f"secure sums have 32 bits, and {most} lattice units may come together: lower {keys}")
        return self

    @property
    def secure(self) -> bool:
        """Whether the coordinator learns only the sum over the sites."""
        return self.federation.aggregation == "secure"

    @property
    def clip_units(self) -> int:
        """Largest norm of one patient's part of a sum, in lattice units, where the run states one."""
        if self.privacy is not None:
            return self.privacy.clip_units
        assert self.lattice.clip_norm is not None
        return math.floor(math.ldexp(self.lattice.clip_norm, self.lattice.bits))

    @property
    def most_units(self) -> int:
        """What the whole population on one coordinate comes to, with ten standard deviations of all sites' noise."""
        noise = 0 if self.privacy is None else self.privacy.sigma_units
        return self.federation.population * self.clip_units + 10 * noise * (math.isqrt(self.federation.sites) + 1)

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, whatever the file's layout."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def gradient_unit(self) -> float:
        """What one step of the lattice that gradients are summed on stands for."""
        return 2.0**-self.lattice.bits if self.privacy is None else self.privacy.clip_norm / self.privacy.clip_units

    @property
    def unit(self) -> float:
        """What one step of a contribution stands for: of a sum of gradients (fedsgd) or an adapter change (fedavg)."""
        return self.gradient_unit if self.federation.protocol == "fedsgd" else 2.0**-self.lattice.bits

    @property
    def private_steps(self) -> int:
        """Releases of a patient's gradient, by whatever chance it is sampled, over the whole run."""
        return self.federation.rounds * self.federation.local_steps

    @property
    def quorum(self) -> int:
        """Least number of sites whose replies make a round."""
        return self.federation.quorum or self.federation.sites

    @property
    def divisor(self) -> float:
        """Public constant that a round's sum is divided by: patients expected (fedsgd) or sites (fedavg)."""
        federation = self.federation
        return (
            federation.population * federation.sampling_rate
            if federation.protocol == "fedsgd"
            else float(federation.sites)
        )


def load_config(path: Path) -> tuple[RunConfig, Codebook]:
    """Read a run configuration and the codebook it names; the codebook's hash is filled in or, where stated, compared.

    Raises
    ------
    FedReasonError
        Where either cannot be read, holds an unknown key or a bad value, or the hashes differ.
    """
    table, text = read_toml(path, missing=Code.CONFIG_MISSING, syntax=Code.CONFIG_SYNTAX)
    config = validated(RunConfig, table, path=path, text=text, unknown=Code.CONFIG_UNKNOWN_KEY, value=Code.CONFIG_VALUE)
    return with_codebook(config, path)


def with_codebook(config: RunConfig, path: Path, changed_in: Path | None = None) -> tuple[RunConfig, Codebook]:
    """Return the run of the file at `path`, which another file may have changed, with its codebook's hash, and that.

    Raises
    ------
    FedReasonError
        Where the codebook cannot be read, is another than the run states, or does not go with what it asks.
    """
    codebook = find_codebook(config, path.parent)
    stated = config.questions.codebook_sha256
    if stated not in (None, codebook.sha256):
        raise FedReasonError(
            Code.CODEBOOK_CHANGED,
            f"{path} states codebook {stated[:12]}..., the file has {codebook.sha256[:12]}...",
            "Use the federation's one codebook, or state the new hash at every site.",
        )
    if codebook.private and config.privacy is not None:
        raise FedReasonError(
            Code.CODEBOOK_PRIVATE,
            f"{path} states [privacy], and its codebook was drafted from records (private = true).",
            "Replace what came from the data by what is publicly known, then remove that line.",
        )
    check_weights(config, codebook, changed_in or path)
    questions = config.questions.model_copy(update={"codebook_sha256": codebook.sha256})
    return config.model_copy(update={"questions": questions}), codebook


def find_codebook(config: RunConfig, folder: Path) -> Codebook:
    """Return the codebook that a configuration names."""
    if config.questions.codebook == SYNTHETIC:
        from common import synthetic

        return synthetic.codebook()
    return load_codebook(folder / config.questions.codebook)


def check_weights(config: RunConfig, codebook: Codebook, where: Path | str) -> None:
    """Refuse a view that the codebook lacks and weights for what it neither describes nor asks.

    A site does so too: what the codebook says is never asked may be asked by no run.
    """
    view = codebook.view(config.questions.view)
    askable = {name for name in view.features if codebook.by_name[name].asked}
    askable |= {task.name for task in codebook.tasks if task.kind != "consultation"}
    unknown = sorted(set(config.questions.weights) - askable)
    if unknown:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{where}: questions.weights names {', '.join(unknown)}, which is no task and not asked in the view.",
            "Use feature names of the view that are asked, or names of tasks.",
        )
