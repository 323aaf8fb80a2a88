"""Drafts of a few columns, and the codebooks that they make."""

from __future__ import annotations

from pathlib import Path

from client.draft.table import Draft, draft
from client.registry.table import Table
from common.codebook import ROW, Codebook, load_codebook


def drafted(columns: dict[str, list[str]]) -> Draft:
    rows = zip(*columns.values(), strict=True)
    table = Table("a table", tuple(columns), iter(list(enumerate(map(list, rows), start=2))))
    return draft(table, patient=ROW, decimal=".", title="T")


def load_text(found: Draft) -> Codebook:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (Path(folder) / "codebook.toml").write_text(found.text())
        return load_codebook(Path(folder) / "codebook.toml")
