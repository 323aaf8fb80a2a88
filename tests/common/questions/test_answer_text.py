"""What may stand beside the letter in a box: its own choice's text or number, with a unit; never another's."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.questions.question import LETTERS
from tests.common.questions.asked import FINDINGS, NUMBERS, ORGANISMS, chosen
from tests.examples import examples

GROUPS = ("B", "A", "O", "AB")
DEGREES = (
    *(r" ^\circ C", r"^{\circ}\mathrm{C}", r"\,^\circ\text{C}", r"\,{}^{\circ}{\rm C}", " °C", "° C", "℃"),
    *(" degrees C", r"\;\degree\,C", r"\,\mathrm{mmol\,L^{-1}}", r"\ \text{mg / dL}"),
)
UNITS = (
    *(" 10⁹/L", r"\times 10^9/L", " x10^9 /L", "/µL", " mL/min/1.73", " mL/min/1.73m^2", " mL/24 h", " mL/24h"),
    *(" kg/m²", " mL kg^{-1} min^{-1}", " mL·kg-1·min-1", " µg/(kg·min)", " cmH2O", r" \% (room air)"),
)
PRESSURES = ("120", "80", "100")
BESIDE = (
    *("/80", " mmHg/80", " mmHg/80 mmHg", "/80mmHg", " mmHg,80", " mmHg-80", "\N{MULTIPLICATION SIGN}80", " /80"),
    *(" mmHg (80)", " mmHg/100", " mmHg/95", "/95"),
)
"""Numbers beside a choice's own, of another choice and of none."""
PARTED = (
    *(" → ", " -> ", "->", " --> ", " => ", r" \to ", r" $\rightarrow$ ", ". → "),
    *(": ", " = ", " - ", " -- ", "--", " \N{EN DASH} "),
)
"""What may stand between a letter and its choice."""


@pytest.mark.parametrize(
    ("completion", "choices", "letter"),
    [
        (r"\boxed{B: 2.5 mmol/L}", NUMBERS, "B"),
        (r"\boxed{B) 2.5}", NUMBERS, "B"),
        (r"\boxed{\text{B. } 2.5}", NUMBERS, "B"),
        (r"\boxed{B. 2.5\,\text{mmol/L}}", NUMBERS, "B"),
        (r"\boxed{B. 2.5 \frac{\text{mmol}}{\text{L}}}", NUMBERS, "B"),
        (r"\boxed{B (2.5 \times 10^{9}/L)}", NUMBERS, "B"),
        (r"\boxed{B. 2.5 10^9/L}", NUMBERS, "B"),
        (r"\boxed{B. 2.5\%}", NUMBERS, "B"),
        (r"\boxed{B. 2.5^\circ\text{C}}", NUMBERS, "B"),
        (r"\boxed{B. 2.5 degrees Celsius}", NUMBERS, "B"),
        (r"\boxed{E. 12,000/\mu L}", NUMBERS, "E"),
        (r"\boxed{E. 12{,}000}", NUMBERS, "E"),
        *((rf"\boxed{{{told}}}", NUMBERS, told[0]) for told in ("C. 3", "C. 03.00", "B) 2.50", "B) +2.5", "A: 2.000")),
        *((rf"\boxed{{B. 2.50{unit}}}", NUMBERS, "B") for unit in DEGREES),
        *((rf"\boxed{{B{mark}2.50}}", NUMBERS, "B") for mark in PARTED),
        *((rf"\boxed{{B{mark}3.5}}", NUMBERS, None) for mark in PARTED),
        *((rf"\boxed{{B{mark}C}}", NUMBERS, None) for mark in PARTED),
        (r"\boxed{E. 1.2 \times 10^{4}}", NUMBERS, "E"),
        ("\\boxed{E. 1.2\N{MULTIPLICATION SIGN}10⁴ /µL}", NUMBERS, "E"),
        (r"\boxed{E. 1.2e4}", NUMBERS, "E"),
        (r"\boxed{D. 1.2e4}", NUMBERS, None),
        (r"\boxed{E. 1.2 \times 10^{5}}", NUMBERS, None),
        (r"\boxed{B. 2.5 mL/min/1.73 m^2}", NUMBERS, "B"),
        *((rf"\boxed{{B. 2.5{unit}}}", NUMBERS, "B") for unit in UNITS),
        *((rf"\boxed{{A. 120{other}}}", PRESSURES, None) for other in BESIDE),
        (r"\boxed{A. 12 h/24 h}", ("12", "24"), None),
        (r"\boxed{B. -2.5}", NUMBERS, None),
        (r"\boxed{B. 3}", NUMBERS, None),
        (r"\boxed{B. 2.5 C}", NUMBERS, None),
        (r"\boxed{B. 2.50}", ("2.5", "2.50"), "B"),
        (r"\boxed{A. 2.50}", ("2.5", "2.50"), None),
        (r"\boxed{B. 2.500}", ("2.5", "2.50"), None),
        (r"\boxed{B. < .50}", ("0.5", "<0.5"), "B"),
        (r"\boxed{B. 50.0\%}", ("40%", "50%"), "B"),
        (r"\boxed{B -> -2.5}", ("-2.5", "2.5"), None),
        (r"\boxed{A -> -2.50}", ("-2.5", "2.5"), "A"),
        (r"\boxed{B--2.5}", ("-2.5", "2.5"), None),
        (r"\boxed{B => 75}", ("60", "=>75"), "B"),
        (r"\boxed{B. 2.55}", NUMBERS, None),
        (r"\boxed{B. 2.5.1}", NUMBERS, None),
        (r"\boxed{B. 2.5-3.5}", NUMBERS, None),
        (r"\boxed{B. 2.5 or 3.5}", NUMBERS, None),
        (r"\boxed{B. 2.5 (not 3.5)}", NUMBERS, None),
        (r"\boxed{B. 2.5 or C}", NUMBERS, None),
        (r"\boxed{B. 3.5}", NUMBERS, None),
        (r"\boxed{B. 3.5 mmol/L}", NUMBERS, None),
        (r"\boxed{B > 2.5}", NUMBERS, None),
        (r"\boxed{2.5}", NUMBERS, None),
        (r"\boxed{B. 50\%}", ("40%", "50%"), "B"),
        (r"\boxed{B. $<$0.5}", ("0.5", "<0.5"), "B"),
        (r"\boxed{B. < 0.5 ng/mL}", ("0.5", "<0.5"), "B"),
        (r"\boxed{A. < 0.5}", ("0.5", "<0.5"), None),
        (r"\boxed{B -2.5}", ("-2.5", "2.5"), None),
        (r"\boxed{A. -2.5}", ("-2.5", "2.5"), "A"),
        ("\\boxed{A. \N{MINUS SIGN}2.5}", ("-2.5", "2.5"), "A"),
        (r"\boxed{A. 2.5 (estimated)}", ("2.5", "estimated"), None),
        (r"\boxed{B. 2.5 mmol/L}", ("2.5 mmol/L", "2.5"), None),
        (r"\boxed{A. 2.5 mmol/L}", ("2.5 mmol/L", "2.5"), "A"),
        (r"\boxed{B. N\x}", (r"N\x", r"N\y"), None),
        (r"\boxed{B. N\y}", (r"N\x", r"N\y"), "B"),
        (r"\boxed{B. E. coli}", ORGANISMS, "B"),
        (r"\boxed{B. \textit{E. coli}}", ORGANISMS, "B"),
        (r"\boxed{E. coli}", ORGANISMS, None),
        (r"\boxed{C. difficile}", ORGANISMS, None),
        (r"\boxed{C. C. difficile}", ORGANISMS, "C"),
        (r"\boxed{E}", ORGANISMS, None),
        (r"\boxed{C}", ("no", "yes"), None),
        (r"\boxed{D. creatinine (serum)}", FINDINGS, "D"),
        (r"\boxed{B. 1, none}", ("2, to pain", "1, none"), "B"),
        (r"\boxed{A}", GROUPS, "A"),
        (r"\boxed{A. B}", GROUPS, "A"),
        (r"\boxed{(A) B}", GROUPS, "A"),
        (r"\boxed{A, B}", GROUPS, None),
        (r"\boxed{A B}", GROUPS, None),
        (r"\boxed{D. AB}", GROUPS, "D"),
        (r"\boxed{B. B}", GROUPS, None),
    ],
)
def test_beside_the_letter_stands_its_own_choice_or_nothing(
    completion: str, choices: tuple[str, ...], letter: str | None
) -> None:
    assert chosen(completion, choices) == letter


@examples(300)
@given(
    values=st.lists(st.integers(-(10**6), 10**6).map(lambda n: Decimal(n) / 100), min_size=2, max_size=5, unique=True),
    letter=st.integers(0, 4),
    told=st.integers(0, 4),
    zeros=st.integers(0, 3),
    mark=st.sampled_from([". ", ") ", *PARTED]),
    unit=st.sampled_from(["", " mmol/L", "\\%", *DEGREES]),
)
def test_a_number_is_what_it_is_worth_and_never_another_choice_s(
    values: list[Decimal], letter: int, told: int, zeros: int, mark: str, unit: str
) -> None:
    letter, told = letter % len(values), told % len(values)
    choices = tuple(f"{value:f}" for value in values)
    number = f"{values[told]:.{2 + zeros}f}"
    if number.startswith("-") and not mark.endswith(" "):
        return
    given = chosen(f"\\boxed{{{LETTERS[letter]}{mark}{number}{unit}}}", choices)
    if letter != told:
        assert given is None
    elif -values[told] not in values:  # where a dash may be the sign of another choice, nothing is
        assert given == LETTERS[letter]
