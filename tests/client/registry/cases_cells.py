"""A site whose registry has a few cells, read or refused by number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from client.registry.load import Registry
from client.site.config import load_site
from client.site.opened import read_registry
from common.codebook import load_codebook
from common.errors import FedReasonError
from common.feature import Feature

HEADER = ("id", "age", "lab")
CODEBOOK = """
title = "T"
patient = "id"
missing = ["", "NA", "-99", "999"]
[[features]]
name = "age"
section = "P"
label = "Age"
kind = "numeric"
low = 0
high = 120
step = 5
[[features]]
name = "lab"
section = "L"
label = "Lab"
unit = "%"
kind = "numeric"
low = -200
high = 100000
step = 1
decimals = 2
words = { "neg" = "negative" }
"""


def site(
    folder: Path, content: bytes | str | Workbook, registry: str = "", name: str = "r.csv", codebook: str = CODEBOOK
) -> Path:
    (folder / "codebook.toml").write_text(codebook)
    (folder / "site.toml").write_text(f'name = "amc"\n[registry]\npath = "{name}"\n{registry}\n')
    if isinstance(content, Workbook):
        content.save(folder / name)
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(
    folder: Path, content: bytes | str | Workbook, registry: str = "", name: str = "r.csv", codebook: str = CODEBOOK
) -> Registry:
    config = load_site(site(folder, content, registry, name, codebook))
    return read_registry(config, load_codebook(config.codebook))


def labs(registry: Registry) -> list[str | None]:
    return [patient.values.get("lab") for patient in registry.patients]


def column(*cells: str, separator: str = ",") -> str:
    rows = [f"{number}{separator}50{separator}{cell}" for number, cell in enumerate(cells, 1)]
    return "\n".join([separator.join(("id", "age", "lab")), *rows, ""])


def workbook(rows: Sequence[Sequence[Any]], formats: dict[str, str] | None = None) -> Workbook:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(list(row))
    for place, form in (formats or {}).items():
        sheet[place].number_format = form
    return book


def refused(folder: Path, content: bytes | str | Workbook, registry: str = "", name: str = "r.csv") -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        read(folder, content, registry, name)
    return caught.value


LAB = Feature(name="x", section="s", label="x", kind="numeric", low=-1e9, high=1e9, step=1, decimals=2)
