"""What a codebook is drafted from takes its own options: another one is refused by its name, not passed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from client.draft.cli import codebook as command
from common.codebook import load_codebook
from tests.client.registry.redcap.dictionaries import row, written

OF_TABLES = [
    ("--patient", "id"),
    ("--sheet", "Cases"),
    ("--header-row", "1"),
    ("--header-rows", "1"),
    ("--encoding", "utf-8"),
    ("--decimal", ","),
    ("--thousands", ","),
]
OF_DICTIONARIES = [("--event", "day_1_arm_1"), ("--repeat", "intake=2")]


def told(*words: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def table(folder: Path) -> Path:
    rows = "".join(f"P{place},{'mf'[place % 2]}\n" for place in range(80))
    (folder / "r.csv").write_text(f"id,sex\n{rows}")
    return folder / "r.csv"


def dictionary(folder: Path) -> Path:
    return written(folder, row("sex", "radio", choices="1, female | 2, male"))


def omop(folder: Path) -> Path:
    (folder / "site.toml").write_text('name = "amc"\n[registry]\nurl_variable = "CDM"\n[registry.omop]\n')
    return folder / "site.toml"


@pytest.mark.parametrize(
    ("source", "options"),
    [(table, OF_DICTIONARIES), (dictionary, OF_TABLES), (omop, [*OF_TABLES, *OF_DICTIONARIES])],
    ids=["table", "dictionary", "omop"],
)
def test_an_option_that_a_source_does_not_take_is_refused_by_its_name(
    tmp_path: Path, source: Callable[[Path], Path], options: Sequence[tuple[str, str]]
) -> None:
    path, out = source(tmp_path), tmp_path / "codebook.toml"
    for option, value in options:
        refused = told("--from", path, "--out", out, option, value)
        assert refused.exit_code == 2 and f"{option} says nothing about" in refused.output, option
        assert not out.exists()


@pytest.mark.parametrize(
    ("source", "options"), [(table, OF_TABLES), (dictionary, OF_DICTIONARIES)], ids=["table", "dictionary"]
)
def test_what_a_source_takes_is_taken(
    tmp_path: Path, source: Callable[[Path], Path], options: Sequence[tuple[str, str]]
) -> None:
    path, out = source(tmp_path), tmp_path / "codebook.toml"
    words = [word for option in options for word in option if option[0] not in ("--sheet", "--thousands")]
    drafted = told("--from", path, "--out", out, "--title", "Sepsis", *words)
    assert drafted.exception is None, drafted.exception
    assert load_codebook(out).title == "Sepsis"
