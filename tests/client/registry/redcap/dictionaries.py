"""Data dictionaries of REDCap as it exports them, the codebooks drafted of them, and their refusals."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from client.registry.redcap.dictionary import Dictionary, read_dictionary
from client.registry.redcap.draft import Draft, draft_redcap
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from tests.paths import DATA

REDCAP = DATA / "redcap"
SENTINEL = "Q7ZSENTINEL"

TITLES = {
    "name": "Variable / Field Name",
    "form": "Form Name",
    "section": "Section Header",
    "kind": "Field Type",
    "label": "Field Label",
    "choices": "Choices, Calculations, OR Slider Labels",
    "note": "Field Note",
    "validation": "Text Validation Type OR Show Slider Number",
    "low": "Text Validation Min",
    "high": "Text Validation Max",
    "identifier": "Identifier?",
    "branching": "Branching Logic (Show field only if...)",
    "required": "Required Field?",
    "alignment": "Custom Alignment",
    "number": "Question Number (surveys only)",
    "matrix": "Matrix Group Name",
    "ranking": "Matrix Ranking?",
    "annotation": "Field Annotation",
}
API = [
    *("field_name", "form_name", "section_header", "field_type", "field_label", "select_choices_or_calculations"),
    *("field_note", "text_validation_type_or_show_slider_number", "text_validation_min", "text_validation_max"),
    *("identifier", "branching_logic", "required_field", "custom_alignment", "question_number", "matrix_group_name"),
    *("matrix_ranking", "field_annotation"),
]

RECORD = {"name": "record_id", "form": "intake", "kind": "text", "label": "Record ID"}


def row(name: str, kind: str = "text", **cells: str) -> dict[str, str]:
    return {"name": name, "form": "intake", "kind": kind, "label": name, **cells}


def content(rows: Sequence[Mapping[str, str]], titles: Sequence[str] = tuple(TITLES.values()), **form: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, **form)
    writer.writerow(titles)
    writer.writerows([cells.get(key, "") for key in TITLES] for cells in rows)
    return text.getvalue()


def written(folder: Path, *rows: Mapping[str, str]) -> Path:
    path = folder / "dictionary.csv"
    path.write_text(content([RECORD, *rows]), newline="")
    return path


def read(folder: Path, *rows: Mapping[str, str]) -> Dictionary:
    return read_dictionary(written(folder, *rows))


def drafted(folder: Path, *rows: Mapping[str, str], **options: Any) -> tuple[Draft, Codebook]:
    draft = draft_redcap(written(folder, *rows), title="test", **options)
    (folder / "codebook.toml").write_text(draft.text)
    return draft, load_codebook(folder / "codebook.toml")


def refusal(path: Path) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        read_dictionary(path)
    assert caught.value.code is Code.CODEBOOK_SOURCE and SENTINEL not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


WARD = [RECORD, row("lactate", validation="number", low="0", high="30"), row("ventilated", "yesno")]


def counted(draft: Draft) -> int:
    return sum(int(line.split()[0].replace(",", "")) for line in draft.told[1:])
