"""The box: what names one offered choice is its answer, however it is written; what does not is none, at any length."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.questions.answer import Answer, boxes, parse_answer, reward
from common.questions.latex import unadorned
from common.questions.question import LETTERS
from tests.common.questions.asked import FINDINGS, NUMBERS, ORGANISMS, chosen, questions_of
from tests.examples import examples


@pytest.mark.parametrize(
    "completion",
    [
        *(r"\boxed{B}", r"\boxed{ B }", r"\boxed{b}", r"\boxed{(B)}", r"\boxed{[B]}", r"\boxed{<B>}", r"\boxed{B.}"),
        *(r"$\boxed{b}$", r"$$\boxed{B}.$$", r"\boxed{B}.", r"**\boxed{B}**", "\\boxed{\n B\n}", r"\boxed {B}"),
        *(r"\boxed{\text{B}}", r"\boxed{\mathbf{B}}", r"\boxed{\bm{\mathrm{B}}}", r"\boxed{ \textbf { B } }"),
        *(r"\boxed{\bf B}", r"\boxed{\mathbf B}", r"\boxed{\left( B \right)}", r"\boxed{\left\{\text{B}\right\}}"),
        *(r"\boxed{~B~}", r"\boxed{\,B\,}", r"\boxed{\ B\ }", r"\boxed{$B$}", r"\boxed{\(B\)}", r"\boxed{B\\}"),
        *(r"\boxed{\textcolor{red}{B}}", r"\boxed{\color{blue} B}", r"\boxed{\large\text{B}}", r"\boxed{{B}}"),
        *(r"\boxed{\operatorname*{B}}", r"\boxed{\underline{\text{B}}}", r"\boxed{\text{B}{}}", r"\boxed{\{B\}}"),
        *(r"\boxed{\{B}", r"\boxed{B\}}", r"\boxed{\$B\$}", r"\boxed{\makebox[2cm][c]{B}}"),
        *(r"\framebox[2cm]{B}", r"\framebox[2cm] [c] {\text{B}}", r"\boxed{\framebox[2cm]{B}}"),
        *(r"\boxed{→ B}", r"\boxed{B -> lactate}", r"\boxed{B $\Rightarrow$ lactate}", "\\boxed{B ➔ lactate}"),
        *(r"\boxed{**B**}", r"\boxed{_B_}", r"\boxed{`B`}", r'\boxed{"B"}', "\\boxed{“B”}", r"\boxed{\*\*B\*\*}"),
        *(
            r"\boxed B",
            r"\boxed B.",
            r"\fbox{B}",
            r"\framebox {B}",
            r"\boxed{\boxed{B}}",
            r"\\boxed{\\text{B}}",
            r"\boxed{\fbox{B}}",
        ),
        *(
            "\\boxed{\uff22}",
            "\\boxed{\uff08B\uff09}",
            "\\boxed{Ⓑ}",
            "\\boxed{\U0001d401}",
            "\\boxed{\u200bB\ufeff}",
            "\\boxed{B。}",
        ),
        *(r"\boxed{Option B}", r"\boxed{Answer: B}", r"\boxed{choice (b)}", r"\boxed{\text{The final answer is } B}"),
        *(r"\boxed{B. lactate}", r"\boxed{B: lactate.}", r"\boxed{B) Lactate}", r"\boxed{(B) lactate}"),
        *(r"\boxed{**B.** lactate}", r"\boxed{B - lactate}", "\\boxed{B — lactate}", r"\boxed{B, LACTATE}"),
        *(r"\boxed{\text{B. } \text{lactate}}", r"\boxed{\text{B}\quad\textit{lac}tate}", r"\boxed{B (lactate)}"),
        *(r"\boxed{Option B: lactate}", r"\boxed{B/lactate}", r"\boxed{B = \text{lactate}}", r"\boxed{B. B}"),
        *(r"\boxed{}, so \boxed{B}", r"\boxed{letter} \boxed{B}", r"\boxed{F} \boxed{B}", r"\boxed{2.5} \boxed{B}"),
        *(r"\boxed{ \boxed{B}", r"} \boxed{B}", r"{ \boxed{B}", r"\} \boxed{B} \{", r"set \{ \boxed{B}"),
    ],
)
def test_one_offered_letter_is_the_answer_however_it_is_written(completion: str) -> None:
    assert chosen(completion) == "B"


@pytest.mark.parametrize(
    "completion",
    [
        *("B", "the answer is B", r"\box{B}", r"\boxedB", r"\boxed{}", r"\boxed{ }", r"\boxed{\text{}}", r"\boxed"),
        *(r"\boxed{B", r"\boxed{\text{B}", r"\boxed{B\}", r"\boxed Because", r"\boxed{\boxed{B", r"\boxed"),
        *(r"\boxed{A or B}", r"\boxed{A, B}", r"\boxed{AB}", r"\boxed{A/B}", r"\boxed{A and B}", r"\boxed{B (not A)}"),
        *(r"\boxed{A \text{ or } B}", r"\boxed{\text{A}\text{B}}", r"\boxed{A \boxed{B}}", r"\boxed{\frac{A}{B}}"),
        *(r"\boxed{\cancel{A} B}", r"\boxed{B|C}", r"\boxed{B. C}", r"\boxed{B: A}", r"\boxed{Options A, B}"),
        *(r"\boxed{F}", r"\boxed{Z}", r"\boxed{1}", r"\boxed{lactate}", r"\boxed{a patient}", r"\boxed{Blactate}"),
        *(r"\boxed{B. urea}", r"\boxed{B. lactate or urea}", r"\boxed{B. lactate dehydrogenase}", r"\boxed{B lact}"),
        *(r"\boxed{not B}", r"\boxed{\cancel{B}}", r"\boxed{\neg B}", r"\boxed{\xyz B}", r"\boxed{B \uparrow}"),
        *(
            r"\boxed{answer}",
            r"\boxed{option}",
            r"\boxed{the}",
            "\\boxed{\N{CYRILLIC CAPITAL LETTER VE}}",
            r"\boxed{B1}",
            r"\boxed{B2.5}",
        ),
    ],
)
def test_what_does_not_name_one_offered_choice_is_no_answer(completion: str) -> None:
    assert parse_answer(completion, FINDINGS) == Answer(None, False)


# --- Laws ---

WRAPPERS: list[Callable[[str], str]] = [
    *(
        (lambda inner, name=name: f"\\{name}{{{inner}}}")
        for name in ("text", "textbf", "mathbf", "mathrm", "textrm", "mathit", "boldsymbol", "bm", "mathcal", "boxed")
    ),
    *((lambda inner, name=name: f"\\{name}{{{inner}}}") for name in ("emph", "mbox", "fbox", "underline", "anything")),
    lambda inner: f"{{{inner}}}",
    lambda inner: f"({inner})",
    lambda inner: f"[{inner}]",
    lambda inner: f"\\left({inner}\\right)",
    lambda inner: f"\\bigl[{inner}\\bigr]",
    lambda inner: f"${inner}$",
    lambda inner: f"\\({inner}\\)",
    lambda inner: f"**{inner}**",
    lambda inner: f"`{inner}`",
    lambda inner: f'"{inner}"',
    lambda inner: f" {inner} ",
    lambda inner: f"~{inner}\\,",
    lambda inner: f"\\bf {inner}",
    lambda inner: f"\\textcolor{{red}}{{{inner}}}",
    lambda inner: f"{inner}.",
]
LETTER = st.sampled_from([*LETTERS, *LETTERS.lower()])
PROSE = st.text(st.characters(exclude_characters="\\{}"), max_size=60)


def wrapped(inner: str, wrappers: list[Callable[[str], str]]) -> str:
    for wrap in wrappers:
        inner = wrap(inner)
    return inner


@examples(500)
@given(letter=LETTER, wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=8))
def test_any_nesting_of_wrappers_around_a_letter_is_that_letter(
    letter: str, wrappers: list[Callable[[str], str]]
) -> None:
    assert chosen(f"\\boxed{{{wrapped(letter, wrappers)}}}") == letter.upper()


@examples(300)
@given(
    index=st.integers(0, 4),
    choices=st.sampled_from([FINDINGS, NUMBERS]),
    mark=st.sampled_from([". ", ": ", ") ", " ", ", ", " - ", "\\quad ", ".~"]),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=4),
)
def test_a_letter_before_its_own_choice_in_any_nesting_is_that_letter(
    index: int, choices: tuple[str, ...], mark: str, wrappers: list[Callable[[str], str]]
) -> None:
    line = wrapped(f"{LETTERS[index]}{mark}{choices[index]}", wrappers)
    assert chosen(f"\\boxed{{{line}}}", choices) == LETTERS[index]
    wrong = wrapped(f"{LETTERS[index]}{mark}{choices[index - 1]}", wrappers)
    assert chosen(f"\\boxed{{{wrong}}}", choices) is None


@examples(500)
@given(
    letters=st.lists(st.sampled_from(LETTERS), min_size=2, max_size=2, unique=True),
    between=st.one_of(
        st.sampled_from([" or ", ", ", "/", "", " and ", " \\text{or} ", ". ", ") ", "\\\\", "|", " - ", "}{", " = "]),
        st.text(string.punctuation + " ", max_size=6),
    ),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    each=st.sampled_from(WRAPPERS),
)
def test_two_letters_in_a_box_are_never_an_answer(
    letters: list[str], between: str, wrappers: list[Callable[[str], str]], each: Callable[[str], str]
) -> None:
    content = wrapped(each(letters[0]) + between + each(letters[1]), wrappers)
    given = boxes(f"\\boxed{{{content}}}")
    if len(given) == 1 and letters[0] in given[0] and letters[1] in given[0]:  # the punctuation may close the box
        assert chosen(f"\\boxed{{{content}}}") is None


@given(before=PROSE, after=PROSE, letter=LETTER, choices=st.sampled_from([FINDINGS, ORGANISMS, ("no", "yes")]))
def test_text_without_boxes_around_a_box_changes_nothing(
    before: str, after: str, letter: str, choices: tuple[str, ...]
) -> None:
    box = f"\\boxed{{{letter}}}"
    assert parse_answer(before + box + after, choices) == parse_answer(box, choices)


@given(
    contents=st.lists(st.sampled_from([*LETTERS, "", "F", "A or B", "lactate"]), min_size=1, max_size=6), prose=PROSE
)
def test_the_first_box_that_holds_an_answer_counts_or_the_last_and_others_are_noticed(
    contents: list[str], prose: str
) -> None:
    completion = prose.join(f"\\boxed{{\\text{{{content}}}}}" for content in contents)
    answers = [LETTERS.index(content) for content in contents if content and content in LETTERS]
    first, last = parse_answer(completion, FINDINGS), parse_answer(completion, FINDINGS, "last")
    assert first.chosen == (answers[0] if answers else None)
    assert last.chosen == (answers[-1] if answers else None)
    assert first.disagrees == last.disagrees == (len(set(answers)) > 1)


@examples(1000)
@given(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                ["\\boxed", "\\boxed{", "{", "}", "\\", "\\text{", "\\color[", "B", "C", ".", " ", "2.5", "-", "<", "$"]
            ),
            max_size=30,
        ).map("".join),
    ),
    st.lists(st.text(max_size=8), min_size=2, max_size=5),
)
@example("\\boxed{\ud800B}", ["\\", "{"])
def test_no_text_raises_and_only_an_offered_choice_is_chosen(text: str, choices: list[str]) -> None:
    for completion in (text, f"\\boxed{{{text}}}", f"\\boxed{{B{text}}}"):
        given = parse_answer(completion, choices)
        assert given.chosen is None or given.chosen < len(choices)
        assert not given.disagrees or len(boxes(completion)) > 1


@given(st.text(), st.text(string.ascii_letters + string.digits + " ,.{}$~\\%()-"))
def test_folding_a_plain_text_again_changes_nothing(text: str, latex: str) -> None:
    for plain in (unadorned(text), unadorned(latex)):
        if not set(plain) & set("\\~$^"):
            assert unadorned(plain) == plain


@examples(100)
@given(st.text())
def test_reward_is_one_for_the_right_box_alone_whatever_follows(text: str) -> None:
    (question,) = questions_of(1)
    wrong = LETTERS[(question.answer + 1) % 5]
    assert reward(parse_answer(f"\\boxed{{{question.letter}}}{text}", question.choices), question) == 1.0
    assert reward(parse_answer(f"\\boxed{{{wrong}}}{text}", question.choices), question) == 0.0


HOSTILE = {
    "boxes never closed": ("\\boxed{", ""),
    "braces": ("{", ""),
    "closing braces": ("}", ""),
    "backslashes": ("\\", ""),
    "backslashes in a box": ("\\", " }"),
    "macros without a brace": ("\\color ", "}"),
    "macros and white space": ("\\color" + 20 * " ", "}"),
    "optional arguments never closed": ("\\color[", "}"),
    "macros nested": ("\\text{", "}"),
    "brackets": ("(", "B}"),
    "announcing words": ("answer is ", "}"),
    "announced and nothing": ("answer:::::::", "}"),
    "letter and marks": ("B. ", "}"),
    "units": ("2.5 x ", "}"),
    "thousands": ("1 000 ", "}"),
    "boxes": ("\\boxed{B. 2.5}", ""),
    "boxes without braces": ("\\boxed ", ""),
    "white space": (" \n", "B}"),
    "arrows": ("->", "2.5}"),
    "dashes": ("-", "2.5}"),
    "options never closed": ("\\framebox[2cm", "}"),
    "options": ("\\framebox[2cm]", "B}"),
    "degrees": ("° deg ", "}"),
    "digits": ("0", "}"),
    "decimals": (".0", "}"),
    "long ligatures": ("\ufdfa", "}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_completion_is_read_to_its_end(name: str) -> None:
    part, end = HOSTILE[name]
    filler = part * (100_000 // len(unicodedata.normalize("NFKC", part)))
    for start in (
        "",
        "\\boxed{",
        "\\boxed{B. 2.5 ",
        "\\boxed{\\color",
        "\\boxed{\\text",
    ):  # at once; where each place looked at all others, an hour for them all
        given = parse_answer(f"\\boxed{{A}} {start}{filler}{end} \\boxed{{C}}", NUMBERS)
        assert given.chosen in (0, 2), "one of the boxes beside it at the least"


@pytest.mark.parametrize("box", [r"\boxed{\neg{B}}", r"\boxed{\overline{B}}", r"\boxed{\lnot B}", r"\boxed{\neg B}"])
def test_a_negated_letter_is_no_answer(box: str) -> None:
    assert parse_answer(box, ("1", "2", "3")).chosen is None
