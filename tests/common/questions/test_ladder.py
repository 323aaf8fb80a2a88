"""Claims about ladders of choices: nothing that they show tells which of them is the truth."""

from __future__ import annotations

import csv
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from client.inspection.blind import Asked, ask, blind_rules, roundness
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from common.codebook import Codebook
from common.feature import Feature, number_of
from common.questions.censored import limit_of, limits_of
from common.questions.choices import codebook_choices
from common.questions.ladder import Scale
from common.questions.question import QuestionMaker
from common.stream import Stream
from tests.examples import examples


def feature(**content: object) -> Feature:
    return Feature.model_validate({"name": "x", "section": "S", "label": "X", "kind": "numeric", **content})


def by_ratio(low: float, high: float, ratio: float, decimals: int, **content: object) -> Feature:
    return feature(low=low, high=high, step=ratio, decimals=decimals, scale="log", **content)


def questions(asked: Feature, truths: Iterable[str]) -> list[Asked]:
    found = (Asked(codebook_choices(asked, truth, Stream.named("ladder", i)), truth) for i, truth in enumerate(truths))
    return [question for question in found if question.choices]


def by_size(question: Asked) -> tuple[str, ...]:
    ends = {"<": -math.inf, "b": -math.inf, ">": math.inf}
    return tuple(sorted(question.choices, key=lambda text: ends.get(text[0]) or float(text)))


def evenly(asked: Feature, count: int, seed: int = 0) -> list[str]:
    """Values drawn evenly on a feature's scale."""
    scale, random = Scale.of(asked), np.random.default_rng(seed)
    assert asked.low is not None and asked.high is not None
    places = random.uniform(scale.place(asked.low - scale.unit / 2), scale.place(asked.high + scale.unit / 2), count)
    values = [math.floor(scale.value(place) / scale.unit + 0.5) * scale.unit for place in places]
    return [asked.number(min(asked.high, max(asked.low, value))) for value in values]


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 12, 1), (0, 7, 1), (3, 15, 2), (1, 9, 2), (-4, 30, 3), (0, 2, 1)]
)
def test_every_choice_of_an_even_ladder_led_to_it_alike(low: int, high: int, step: int) -> None:
    asked = feature(low=low, high=high, step=step)
    truths = [str(value) for value in range(low, high + 1)] * 150
    led = Counter((by_size(question), question.truth) for question in questions(asked, truths))
    ladders = {ladder for ladder, _ in led}
    for ladder in ladders:
        assert [float(b) - float(a) for a, b in itertools.pairwise(ladder)] == [step] * (len(ladder) - 1)
        assert chisquare([led[ladder, truth] for truth in ladder]).pvalue > 1e-4, ladder
    assert {text for ladder in ladders for text in ladder} == {str(v) for v in range(low, high + 1)}


@pytest.mark.long
@pytest.mark.parametrize(
    ("low", "high", "ratio", "decimals"), [(0.1, 100, 1.5, 1), (0.01, 50, 1.3, 2), (1, 5000, 2, 0), (0, 40, 1.2, 1)]
)
def test_the_truth_is_at_every_rank_of_a_geometric_ladder_wherever_that_stands(
    low: float, high: float, ratio: float, decimals: int
) -> None:
    asked = by_ratio(low, high, ratio, decimals)
    found = questions(asked, evenly(asked, 4_000))
    lowest = np.quantile([float(by_size(question)[0]) for question in found], [0.25, 0.5, 0.75])
    ranks = np.zeros((4, 5))
    for question in found:
        ladder = by_size(question)
        assert len(ladder) == 5
        ranks[np.searchsorted(lowest, float(ladder[0])), ladder.index(question.truth)] += 1
    assert all(chisquare(row).pvalue > 1e-4 for row in ranks), ranks


def test_rungs_of_a_geometric_ladder_are_a_ratio_apart_but_for_rounding() -> None:
    asked = by_ratio(1, 100_000, 1.5, 3)
    for question in questions(asked, evenly(asked, 300)):
        ladder = [float(text) for text in by_size(question)]
        assert all(b / a == pytest.approx(1.5, rel=0.25 if a < 3 else 0.2) for a, b in itertools.pairwise(ladder))


def consistent(ladder: Sequence[str], candidate: int, asked: Feature) -> bool:
    """Whether the others follow from one of the choices by the ratio and rounding."""
    scale = Scale.of(asked)
    own = scale.place(float(ladder[candidate]))
    return all(asked.number(scale.value(own + far - candidate)) == text for far, text in enumerate(ladder))


def test_arithmetic_does_not_tell_from_which_choice_the_others_were_made() -> None:
    asked = by_ratio(1, 10_000, 1.4, 0)
    found = questions(asked, evenly(asked, 2000))
    right = 0.0
    for question in found:
        ladder = by_size(question)
        suited = [text for place, text in enumerate(ladder) if consistent(ladder, place, asked)]
        right += (question.truth in suited) / len(suited) if suited else 0.2
    assert right / len(found) < 0.25


@pytest.mark.parametrize("grain", [1, 5, 10, 50])
def test_round_values_are_asked_beside_values_as_round(grain: int) -> None:
    asked = by_ratio(10, 20_000, 1.5, 0)
    random = np.random.default_rng(0)
    values = np.rint(np.exp(random.normal(math.log(1500), 0.6, 1500)) / grain) * grain
    found = questions(asked, [asked.number(value) for value in values])
    least = np.mean([min(roundness(text) for text in question.choices) for question in found])
    assert least >= (0 if grain == 1 else 0.8 * roundness(str(grain)))
    rules = blind_rules(asked, found)
    assert rules is not None and rules.digits < rules.chance + 0.08


@pytest.mark.parametrize(
    ("text", "low", "value", "included"),
    [
        ("<0.5", True, 0.5, False),
        ("< 0,5", True, 0.5, False),
        ("below 0.5 mg/L", True, 0.5, False),
        ("Less than 10", True, 10, False),
        ("<=3", True, 3, True),
        ("≤ 3", True, 3, True),
        ("at most 3", True, 3, True),
        ("3 or less", True, 3, True),
        (">89", False, 89, False),
        ("over 1000", False, 1000, False),
        ("90 or over", False, 90, True),
        ("90 years or older", False, 90, True),
        ("90+", False, 90, True),
        (">= 90", False, 90, True),
        ("at least 90", False, 90, True),
        (">2,000", False, 2000, False),
        ("> 35.000", False, 35_000, False),
        (">100,000", False, 100_000, False),
        ("> 1 000", False, 1000, False),
        (">1\u202f000", False, 1000, False),
        (">1'000.5", False, 1000.5, False),
        ("<1.500,5", True, 1500.5, False),
        ("<0,500", True, 0.5, False),
        (">100/min", False, 100, False),
        ("over 2,5", False, 2.5, False),
        ("65 and over", False, 65, True),
        ("> 1.5 x ULN", False, 1.5, False),
        ("2+", False, 2, True),
        ("<0.5 x10^9/L", True, 0.5, False),
    ],
)
def test_a_limit_is_read_however_it_is_written(text: str, low: bool, value: float, included: bool) -> None:
    limit = limit_of(text, by_ratio(0.1, 100_000, 1.4, 1, unit="10^9/L"))
    assert limit is not None and (limit.low, limit.value, limit.included) == (low, value, included)
    beyond = value - 1 if low else value + 1
    assert limit.holds(beyond) and limit.holds(value) is included and not limit.holds(2 * value - beyond)


@pytest.mark.parametrize(("decimals", "high", "value"), [(0, 5000, 2000), (3, 5000, 2), (3, 5, 2), (0, 5, 2)])
def test_one_sign_before_three_digits_is_what_the_decimals_say_or_what_lies_within_the_bounds(
    decimals: int, high: float, value: float
) -> None:
    for text in (">2,000", ">2.000"):
        limit = limit_of(text, by_ratio(1, high, 1.4, decimals))
        assert limit is not None and limit.value == value


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("more than 24", "h", 24),
        ("more than 24 h", "h", 24),
        ("24h or more", "h", 24),
        ("less than 8", "s", 8),
        ("less than 8s", "s", 8),
        ("at most 3m", "m", 3),
        ("<8g/L", "g", 8),
        ("90% or over", "%", 90),
    ],
)
def test_the_letters_of_a_unit_within_a_word_are_the_word_s(text: str, unit: str, value: float) -> None:
    limit = limit_of(text, feature(low=0, high=100, step=5, unit=unit))
    assert limit is not None and limit.value == value


RANGES = (
    "5 and under 10;5 or less than 10;5 years and under 10 years;at least 5 and under 10;<5 or >9;>= 5, < 10;"
    ">90 (normal <80)"
)


@pytest.mark.parametrize("text", RANGES.split(";"))
def test_a_range_is_no_limit(text: str) -> None:
    assert limit_of(text, feature(low=0, high=100, step=1, unit="years")) is None


@pytest.mark.parametrize(
    ("word", "unit", "truth", "within"),
    [
        ("at least 5 and under 10", "", "7", range(5, 10)),
        ("5 and under 10", "years", "8", range(5, 10)),
        ("<5 or >9", "", "12", [*range(5), *range(10, 101)]),
        ("more than 24", "h", "40", range(25, 101)),
        ("less than 8", "s", "3", range(8)),
    ],
)
def test_a_number_stands_beside_no_word_that_means_it(word: str, unit: str, truth: str, within: Sequence[int]) -> None:
    asked = feature(low=0, high=100, step=2, unit=unit, words={"a": word})
    drawn = [codebook_choices(asked, text, Stream.named(seed)) for seed in range(200) for text in (truth, word, "60")]
    beside = [choices for choices in drawn if word in choices]
    assert not [text for choices in beside for text in choices if text != word and int(text) in within]
    assert not [choices for choices in drawn if truth in choices and word in choices]


@pytest.mark.parametrize("text", ["negative", "hemolyzed", "not below 0.5", "2 to 5", "trace", "see note 4", "+++"])
def test_a_word_without_a_limit_has_none(text: str) -> None:
    assert limit_of(text, by_ratio(0.1, 100_000, 1.4, 1)) is None


POWERS = "> 10^5;<1e3;> 10 ^ 5;> 2 x 10;10^5 or more;10^5+;1e5+;1.5 x 10^9 or less;> 10\u2075;<10**3"
RATIOS = "<1:40;<10:40;>= 1:80;1:80 or more;12:00 and over;<1/40;1/40 or more;1,00,000 or more;1234 567 or more"


@pytest.mark.parametrize("text", [*POWERS.split(";"), *RATIOS.split(";")])
def test_a_power_a_ratio_and_a_time_of_day_are_no_limit(text: str) -> None:
    assert limit_of(text, by_ratio(0.1, 100_000, 1.4, 1)) is None


WORDS = {"<0.5": "below 0.5", "<0.2": "<0.2", ">40": "above 40", "hemolyzed": "hemolyzed"}
scales = st.sampled_from([{"step": 1.0, "scale": "linear"}, {"step": 1.3, "scale": "log"}, {"step": 3, "scale": "log"}])


@examples(200)
@given(scales, st.sets(st.sampled_from(sorted(WORDS)), min_size=1), st.integers(0, 5000), st.integers(), st.booleans())
def test_of_a_word_and_the_choices_beside_it_one_alone_can_be_right(
    scale: dict[str, object], codes: set[str], value: int, seed: int, word: bool
) -> None:
    asked = feature(low=0, high=50, decimals=2, words={code: WORDS[code] for code in codes}, **scale)
    limits = limits_of(asked)
    truth = WORDS[sorted(codes)[seed % len(codes)]] if word else asked.number(value / 100)
    choices = codebook_choices(asked, truth, Stream.named(seed))
    offered = [limits[text] for text in choices if number_of(text) is None]
    numbers = [float(text) for text in choices if number_of(text) is not None]
    assert not choices or truth in choices
    assert len({limit.low for limit in offered}) == len(offered)
    assert not [number for number in numbers for limit in offered if limit.holds(number)]
    steps = Scale.of(asked)
    for limit in offered:
        edge = min(numbers) if limit.low else max(numbers)
        assert abs(steps.place(edge) - steps.place(limit.value)) < 1.3


@pytest.mark.long
@pytest.mark.parametrize("words", [["<0.50"], ["<0.20", "<0.50"], [">60.00"], ["<0.50", ">60.00"]])
def test_a_word_and_the_numbers_beside_it_led_to_their_ladder_alike(words: list[str]) -> None:
    asked = by_ratio(0, 100, 1.5, 2, words={word: word for word in words})
    random, scale, limits = np.random.default_rng(1), Scale.of(asked), limits_of(asked)
    low, high = scale.place(0.2), scale.place(100)
    places = random.uniform(low - len(words), high, 16_000)  # a word is as likely as any one step
    ends = [scale.place(limits[word].value) for word in words]
    places = [place for place in places if place < low or min(abs(place - end) for end in ends) < 5]  # others see none
    truths = [words[int(low - place)] if place < low else asked.number(scale.value(place)) for place in places]
    found = questions(asked, truths)
    for word in words:
        side = 1 if limits[word].low else -1
        ladders = [by_size(question)[::side] for question in found if word in question.choices]
        ranks = Counter(
            ladder.index(question.truth)
            for ladder, question in zip(ladders, (each for each in found if word in each.choices), strict=True)
        )
        assert sum(ranks.values()) > 300
        assert chisquare([ranks[rank] for rank in range(5)]).pvalue > 1e-4, word


def test_neither_the_place_nor_the_digits_of_a_ladder_tell_a_word_from_a_number() -> None:
    asked = by_ratio(0, 50, 1.4, 2, words={"<0.5": "below 0.5"})
    random = np.random.default_rng(2)
    numbers = [asked.number(round(value, 1)) for value in np.exp(random.normal(0.5, 0.7, 6000)) if value >= 0.5]
    found = questions(asked, numbers + ["below 0.5"] * 3000)
    beside = [question for question in found if "below 0.5" in question.choices]
    round_ = {
        is_word: [
            all(text[-1] == "0" for text in question.choices if number_of(text) is not None)
            for question in beside
            if (question.truth == "below 0.5") is is_word
        ]
        for is_word in (True, False)
    }
    assert min(map(len, round_.values())) > 300
    assert abs(np.mean(round_[True]) - np.mean(round_[False])) < 0.15
    second = [by_size(question)[1] for question in beside if question.truth == "below 0.5"]
    assert max(map(float, second)) <= 0.8


def test_a_registry_with_censored_values_asks_nothing_with_two_right_answers(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    cells = random.choice(["<0.5", "0.1", "0.3", "0.4", "1.2", "2.2", "0.5", "0.55"], 400)
    with (tmp_path / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "lab"), *enumerate(cells)])
    lab = {"name": "lab", "section": "L", "label": "Lab", "kind": "numeric", "low": 0, "high": 50, "decimals": 2}
    for scale in ({"step": 1}, {"step": 1.2, "scale": "log"}):
        content = {"title": "T", "patient": "id", "features": [lab | scale | {"words": {"<0.5": "below 0.5"}}]}
        book = Codebook.model_validate(content)
        maker, patients = QuestionMaker(book, "full"), registry_from(read_delimited(tmp_path / "r.csv"), book).patients
        asked = [maker.make(patient, "lab", Stream.named(patient.id)) for patient in patients]
        made = [question for question in asked if question is not None]
        numbers = [float(text) for question in made for text in question.choices if number_of(text) is not None]
        assert numbers and min(numbers) >= 0.5
        assert {question.truth for question in made} == {"below 0.5", "0.50", "0.55", "1.20", "2.20"}


SKEWED: dict[str, Callable[[np.random.Generator, int], Iterable[float]]] = {
    "procalcitonin": lambda random, count: np.clip(np.exp(random.normal(0, 1.6, count)), 0.02, 150),
    "bilirubin": lambda random, count: np.clip(np.exp(random.normal(-0.2, 1.1, count)), 0.2, 45),
    "creatinine": lambda random, count: np.where(
        random.random(count) < 0.2, 0.3, np.clip(np.exp(random.normal(0.1, 0.8, count)), 0.3, 20)
    ),
}
BOUNDS = {
    "procalcitonin": (0.02, 200, 10, 2, 1.5),
    "bilirubin": (0.2, 50, 2, 1, 1.3),
    "creatinine": (0.3, 25, 1, 1, 1.2),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SKEWED)
def test_of_skewed_values_the_smallest_is_not_the_truth_where_choices_differ_by_a_ratio(name: str) -> None:
    low, high, step, decimals, ratio = BOUNDS[name]
    even, geometric = feature(low=low, high=high, step=step, decimals=decimals), by_ratio(low, high, ratio, decimals)
    truths = [even.number(value) for value in SKEWED[name](np.random.default_rng(4), 1500)]
    before, after = (blind_rules(each, ask(each, truths, 2000)) for each in (even, geometric))
    assert before is not None and before.over_chance > 0.2
    assert after is not None and after.over_chance <= 0.1


def test_the_rules_find_what_gives_an_answer_away() -> None:
    asked = feature(low=0, high=1000, step=10)
    ladders = [[str(10 * (start + rung)) for rung in range(5)] for start in range(60)]
    always = {
        "rank": [Asked(ladder, ladder[3]) for ladder in ladders],
        "value": [Asked(ladder, min(ladder, key=lambda text: abs(float(text) - 333))) for ladder in ladders],
        "digits": [Asked([*(str(int(text) + 3) for text in ladder[:4]), "500"], "500") for ladder in ladders],
    }
    for kind, found in always.items():
        rules = blind_rules(asked, found)
        assert rules is not None and rules.best == getattr(rules, kind) > 0.95, kind
    worded = feature(low=1, high=1000, step=10, words={"<1": "<1"})
    rules = blind_rules(worded, [Asked(["<1", *ladder[1:]], "<1") for ladder in ladders])
    assert rules is not None and rules.word == 1.0
    assert blind_rules(asked, []) is None
