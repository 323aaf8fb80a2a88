"""Questions of a registry on the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from rich.rule import Rule
from rich.text import Text

from client.preview.questions import Preview
from common.config import PAPER
from common.questions.question import LETTERS, Consultation

NOTICE = "This is patient data. Keep it on this machine, and delete what you saved once you have read it."
_STEERING = frozenset({"Cc", "Cf", "Cs"})
"""Unicode categories of what steers a terminal or turns the direction of writing."""


def shown(found: Sequence[Preview]) -> Iterator[Text | Rule]:
    """Yield what is printed: what every prompt begins with, then each record, question, choices and truth."""
    yield Text(PAPER.system, "italic")
    for number, preview in enumerate(found, start=1):
        yield Rule(f"{number} of {len(found)}: {title(preview)}", align="left")
        for line in preview.lines:
            yield Text(visible(line.text), "dim" if line.hidden else "")
        asked = preview.asked
        yield Text(visible(asked.text), "bold")
        if isinstance(asked, Consultation):
            yield Text(f"Reference: {visible(asked.reference)}", "green")
            continue
        for place, (letter, choice) in enumerate(zip(LETTERS, asked.choices, strict=False)):
            right = place == asked.answer
            yield Text(f"{letter}. {visible(choice)}{'   <- the truth' if right else ''}", "green" if right else "")


def title(preview: Preview) -> str:
    """Return what is asked for and how."""
    asked = preview.asked
    return f"{asked.item}, {'consultation' if isinstance(asked, Consultation) else asked.kind}"


def visible(text: str) -> str:
    """Write characters that steer a terminal or turn the direction of writing as their codes."""
    return "".join(f"<U+{ord(char):04X}>" if unicodedata.category(char) in _STEERING else char for char in text)
