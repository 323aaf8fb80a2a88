"""What a warm-up states: the base, the public codebooks, how long, and when it is enough. TOML, read like a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from common.codebook import Codebook, load_codebook
from common.config import PAPER, SYNTHETIC, TINY, GrpoConfig, ModelConfig, Positive, PromptConfig
from common.errors import Code, FedReasonError
from common.toml import Strict, read_toml, validated

_LESSONS = 5
"""Goes up with what a step draws and how it is taught, so that no warm-up goes on as another."""


class Source(Strict):
    """A codebook, "synthetic" or a path relative to the configuration, and the view whose questions are practised."""

    codebook: str = SYNTHETIC
    view: str = "full"


class Course(Strict):
    """A warm-up of all weights, from a base model to one that reads and answers multiple-choice questions.

    The first `form` steps teach the form alone; later a tenth. The rest is binding, of each kind the more the less
    of it the latest look of the probe found right. Records grow to their whole length over `lengthen` steps. The
    learning rate rises over the first 20 steps and stays: so a warm-up that goes on is the one that was longer from
    the start. It ends as soon as the probe, every `probe_every` steps, answers a share of `until` rightly, and of as
    many that were never asked too; after `steps` it has failed. A completion is the value asked about, where it is
    shown, else the choice's text, and then the box ("worked"), or the box alone.
    """

    seed: int = 0
    model: ModelConfig
    prompt: PromptConfig = PAPER
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    completion: Literal["worked", "box"] = "worked"
    steps: Positive = 2000
    form: int = Field(default=25, ge=0)
    lengthen: Positive = 100
    batch: Positive = 64
    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    max_prompt_tokens: Positive = 2000
    max_completion_tokens: int = Field(default=32, ge=4)
    probe_every: Positive = 50
    probe_questions: int = Field(default=250, ge=5)
    until: float = Field(default=0.9, gt=0, le=1)

    @field_validator("model")
    @classmethod
    def _can_be_taught(cls, value: ModelConfig) -> ModelConfig:
        if value.base == TINY:
            raise ValueError('"tiny" is warmed up where it is made: name the folder of another model')
        if value.quantization != "none":
            raise ValueError("weights in four bits cannot be taught: state quantization in the run, not here")
        return value

    @property
    def grpo(self) -> GrpoConfig:
        """How the probe is answered: as a run's questions are."""
        return GrpoConfig(
            max_prompt_tokens=self.max_prompt_tokens,
            max_completion_tokens=self.max_completion_tokens,
            prompt=self.prompt,
        )

    def identity(self, base: str, books: Sequence[Codebook]) -> str:
        """Hash of all that decides the weights after so many steps: base, codebooks and their knowledge among it."""
        how_long = {"steps", "until"}
        stated = self.model_dump(mode="json", exclude=how_long | {"model", "sources"})
        views = [source.view for source in self.sources]
        taught = [[book.sha256, *(line.model_dump(mode="json") for line in book.knowledge)] for book in books]
        return hashlib.sha256(json.dumps([_LESSONS, stated, base, taught, views]).encode()).hexdigest()


def load_course(path: Path) -> tuple[Course, list[Codebook]]:
    """Read a warm-up's configuration and the codebooks that it names.

    Raises
    ------
    FedReasonError
        Where one cannot be read or holds what it may not, or a codebook was drafted from records.
    """
    table, text = read_toml(path, missing=Code.CONFIG_MISSING, syntax=Code.CONFIG_SYNTAX)
    course = validated(Course, table, path=path, text=text, unknown=Code.CONFIG_UNKNOWN_KEY, value=Code.CONFIG_VALUE)
    return course, [_codebook(source, path.parent) for source in course.sources]


def _codebook(source: Source, folder: Path) -> Codebook:
    if source.codebook == SYNTHETIC:
        from common import synthetic

        book = synthetic.codebook()
    else:
        book = load_codebook(folder / source.codebook)
    if book.private:
        raise FedReasonError(
            Code.CODEBOOK_PRIVATE,
            f"A warm-up is of public things alone, and {source.codebook} was drafted from records (private = true).",
            "Replace what came from the data by what is publicly known, then remove that line.",
        )
    book.view(source.view)
    return book
