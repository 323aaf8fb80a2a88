"""Public text for the warm-up: copying drills, relation facts and worked questions.

Questions are rendered as GRPO and evaluation render them. Nothing here looks at a registry, and treatment in the
synthetic text is any entry of the public short list, so the local practice is absent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from common.codebook import Codebook
from common.feature import JOINED, Feature
from common.questions.ladder import Scale
from common.questions.prompt import prompt_text
from common.questions.question import LETTERS, MASK, Patient, Question, QuestionMaker, label_of
from common.stream import Stream
from common.synthetic import CORE, EVIDENCE, codebook, public_patient

LONGEST = 19
"""Most tokens of a completion before its end."""


@dataclass(frozen=True)
class Example:
    """A text whose completion is taught; the prompt may be empty. `ends` says whether the end of text is taught too."""

    prompt: str
    completion: str
    ends: bool = False


class PublicText(ABC):
    """A source of examples; equal seeds give equal examples.

    Parameters
    ----------
    weights
        Items asked, as for QuestionMaker; empty asks all.
    """

    vocabulary: int

    def __init__(self, book: Codebook, view: str, seed: int, weights: dict[str, float] | None = None) -> None:
        self.random = Random(f"public text {seed}")
        self.stream = Stream.named("public text", seed)
        self.maker = QuestionMaker(book, view, weights=weights)

    @abstractmethod
    def patient(self) -> Patient:
        """Draw a public patient."""

    @abstractmethod
    def completion(self, patient: Patient, question: Question, tokenizer: PreTrainedTokenizerBase) -> str:
        """Write the short worked answer."""

    @abstractmethod
    def facts(self) -> Example | None:
        """State relations without a question; None where the source knows none."""

    @abstractmethod
    def words(self) -> str:
        """Text that the tokenizer must see often."""

    def question(self) -> tuple[Patient, Question]:
        """Draw a patient and a question about it."""
        while True:
            patient = self.patient()
            for question in self.maker.draw(patient, 1, self.stream):
                return patient, question

    def worked(self, tokenizer: PreTrainedTokenizerBase) -> Example:
        """Write a question with its worked answer."""
        patient, question = self.question()
        return Example(
            prompt_text(question, tokenizer), self.completion(patient, question, tokenizer) + _box(question), ends=True
        )

    def drill(self, tokenizer: PreTrainedTokenizerBase) -> Example:
        """Write a question, then lines of its record copied out and letters of its choices; the truth is not marked."""
        _, question = self.question()
        shown = _shown(question)
        copied = ",".join(f" {label} {value}" for label, value in self.random.choices(shown, k=6)) if shown else ""
        offered = list(zip(LETTERS, question.choices, strict=False))
        asked = self.asked(question)
        lettered = (f" so {asked}{choice} \\boxed{{{letter}}}" for letter, choice in self.random.choices(offered, k=8))
        return Example(prompt_text(question, tokenizer), copied + "".join(lettered))

    def asked(self, question: Question) -> str:
        """Text between 'so' and a choice in a drill."""
        return ""

    def corpus(self, questions: int, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """Text to train a tokenizer on."""
        for _ in range(questions):
            example = self.worked(tokenizer)
            yield f"{example.prompt}{example.completion} {self.words()}"


class CoreText(PublicText):
    """Public text on the core view of the synthetic registry."""

    vocabulary = 1024

    def __init__(self, seed: int) -> None:
        super().__init__(codebook(), "core", seed, dict.fromkeys(EVIDENCE, 1.0))
        self._words = " ".join([*_categories(codebook(), CORE), *(f"{tenth / 10:.1f}" for tenth in range(2, 81, 2))])

    def patient(self) -> Patient:
        """Draw a patient treated by the short lists."""
        return Patient("public", public_patient(self.random))

    def completion(self, patient: Patient, question: Question, tokenizer: PreTrainedTokenizerBase) -> str:
        """Write the deciding value, then the answer: ' Pathogen ecoli so Antibiotic gentamicin'."""
        return self._relation(patient, question.item)

    def facts(self) -> Example:
        """State eight relations of one patient."""
        patient = self.patient()
        return Example("", ".".join(self._relation(patient, item) for item in self.random.choices(list(EVIDENCE), k=8)))

    def words(self) -> str:
        """List all categories and the decimals of the laboratory grid."""
        return self._words

    def asked(self, question: Question) -> str:
        """Label of the masked feature."""
        return f"{_label(self.maker, question.item)} "

    def _relation(self, patient: Patient, item: str) -> str:
        given = EVIDENCE[item]
        cause, effect = patient.values[given], patient.values[item]
        return f" {_label(self.maker, given)} {cause} so {_label(self.maker, item)} {effect}"


class CodebookText(PublicText):
    """Random records of any codebook: form without content, since no value depends on another."""

    vocabulary = 2400

    def __init__(self, book: Codebook, view: str, seed: int) -> None:
        super().__init__(book, view, seed)
        self.features = [book.by_name[name] for name in self.maker.view.features if book.by_name[name].kind != "text"]
        later = {self.maker.feature_of(item).name for item in self.maker.weights} - {f.name for f in self.features}
        self.features += [book.by_name[name] for name in sorted(later)]

    def patient(self) -> Patient:
        """Draw every value evenly on its scale or from its categories, a random share of them missing."""
        share = self.random.uniform(0.0, 0.4)
        return Patient("public", {f.name: self._value(f) for f in self.features if self.random.random() >= share})

    def completion(self, patient: Patient, question: Question, tokenizer: PreTrainedTokenizerBase) -> str:
        """Copy one line of the record, then name a choice; what would be too long is left out."""
        answer = f" so {question.truth}"
        shown = _shown(question)
        label, value = self.random.choice(shown) if shown else ("", "")
        room = LONGEST - len(tokenizer(_box(question))["input_ids"])
        for text in (f" {label} {value}{answer}" if shown else answer, answer):
            if len(tokenizer(text)["input_ids"]) <= room:
                return text
        return ""

    def facts(self) -> None:
        """Random records hold no relation."""

    def words(self) -> str:
        """Draw two values of every feature."""
        return " ".join(self._value(feature) for feature in self.features for _ in range(2))

    def _value(self, feature: Feature) -> str:
        if feature.kind == "categorical":
            texts = sorted(set(feature.categories.values()))
            beside = sorted(feature.beside)
            several = self.random.randint(1, min(3, len(beside))) if feature.separator else 1
            return JOINED.join(self.random.sample(beside, several)) if several > 1 else self.random.choice(texts)
        if feature.words and self.random.random() < 0.2:
            return self.random.choice(sorted(feature.words.values()))
        assert feature.low is not None and feature.high is not None
        if feature.scale == "linear" or feature.step is None:
            return feature.number(self.random.uniform(feature.low, feature.high))
        scale = Scale.of(feature)
        return feature.number(scale.value(self.random.uniform(scale.place(feature.low), scale.place(feature.high))))


def _box(question: Question) -> str:
    return f" \\boxed{{{question.letter}}}"


def _label(maker: QuestionMaker, item: str) -> str:
    return label_of(maker.feature_of(item), maker.view)


def _shown(question: Question) -> list[tuple[str, str]]:
    """Label without unit, and value, of every line shown."""
    pairs = [line.rpartition(": ") for line in question.record if ": " in line]
    return [(label.split(" (")[0], value) for label, _, value in pairs if value != MASK]


def _categories(book: Codebook, names: tuple[str, ...]) -> list[str]:
    return sorted({text for name in names for text in book.by_name[name].categories.values()})
