"""Command line `python -m client codebook`: a first codebook from a data dictionary, a table, or OMOP concept sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.cli import console

if TYPE_CHECKING:
    from client.registry.config import RegistryConfig

_OF_TABLES = ("patient", "sheet", "header_row", "header_rows", "encoding", "decimal", "thousands")
_OF_DICTIONARIES = ("event", "repeat")


def codebook(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Option(
            "--from", help="A REDCap data dictionary, a table of records, or a site.toml with [registry.omop]."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write, for you alone.")] = Path("codebook.toml"),
    title: Annotated[str, typer.Option(help="What the registry is called.")] = "Registry",
    patient: Annotated[
        str | None, typer.Option(help="Column that identifies the patient; '#' where every row is another one.")
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="Sheet of a workbook that has several.")] = None,
    header_row: Annotated[
        int, typer.Option(help="Row of a sheet, or line of a CSV file, that holds the column names.")
    ] = 1,
    header_rows: Annotated[
        int | None, typer.Option(help="How many rows they fill; where nothing is said, one or two, as they look.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of a CSV file, such as cp1252.")] = "utf-8",
    decimal: Annotated[str, typer.Option(help="What stands for the point in numbers given as text.")] = ".",
    thousands: Annotated[str | None, typer.Option(help="What separates groups of three digits in them.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="REDCap: an event with features of its own.")] = None,
    repeat: Annotated[list[str] | None, typer.Option(help="REDCap: a repeating form and how often, labs=3.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let it take the place of an existing file.")] = False,
) -> None:
    """Draft a codebook for a person to complete."""
    from common.errors import Code, FedReasonError
    from common.identity.keys import write_private

    if out.exists() and not replace:
        raise FedReasonError(Code.CODEBOOK_SOURCE, f"{out} exists already.", "Name another file, or say --replace.")
    if source.suffix == ".toml":
        _refuse(context, (*_OF_TABLES, *_OF_DICTIONARIES), f"{source}, which asks a database")
        text, told = _from_omop(source, title=title)
    else:
        options = {"sheet": sheet, "header_row": header_row, "header_rows": header_rows or 1}
        config = _config({"path": source, "encoding": encoding, "decimal": decimal, "thousands": thousands, **options})
        if _holds_dictionary(config):
            _refuse(context, _OF_TABLES, f"{source}, a REDCap data dictionary")
            text, told = _from_dictionary(source, title=title, events=event or (), repeats=repeat or ())
        else:
            _refuse(context, _OF_DICTIONARIES, f"{source}, which is no REDCap data dictionary")
            text, told = _from_table(config, patient=patient, title=title, alone=header_rows is None)
    try:
        write_private(out, text.encode())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise FedReasonError(
            Code.CODEBOOK_SOURCE, f"{out} cannot be written ({type(error).__name__}).", "Name another file: --out."
        ) from None
    for line in told:
        print(line)
    console.print(f"Written to {out}: read it, correct it, and complete it.", markup=False)


def _refuse(context: typer.Context, options: Sequence[str], source: str) -> None:
    """Refuse options that are given and that such a source does not take."""
    from click.core import ParameterSource

    given = [name for name in options if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise typer.BadParameter(f"{named} says nothing about {source}: leave it out")


def _holds_dictionary(config: RegistryConfig) -> bool:
    from contextlib import closing

    from client.registry.redcap.dictionary import is_dictionary
    from client.registry.source import open_source

    with closing(open_source(config)) as table:
        return is_dictionary(table.columns)


def _from_table(config: RegistryConfig, *, patient: str | None, title: str, alone: bool) -> tuple[str, Sequence[str]]:
    """Draft from records, as text and what to tell.

    Where the options leave it `alone`, a second row of names is taken as such.
    """
    from contextlib import closing

    from client.draft.table import draft, named_below
    from client.registry.source import open_source

    heading = []
    if alone and config.header_rows == 1:
        two = config.model_copy(update={"header_rows": 2})
        with closing(open_source(config)) as table, closing(open_source(two)) as other:
            if table.columns != other.columns and named_below(table):
                config, row = two, config.header_row
                heading = [f"names from rows {row} and {row + 1}: say header_rows = 2 in site.toml, [registry]"]
    with closing(open_source(config)) as table:
        drafted = draft(table, patient=patient, decimal=config.decimal, thousands=config.thousands, title=title)
    return drafted.text(), [*heading, *drafted.told()]


def _from_dictionary(
    source: Path, *, title: str, events: Sequence[str], repeats: Sequence[str]
) -> tuple[str, Sequence[str]]:
    from client.registry.redcap.draft import draft_redcap

    drafted = draft_redcap(source, title=title, events=events, repeats=repeats)
    for remark in drafted.remarks:
        console.print(remark, style="yellow", highlight=False, soft_wrap=True, markup=False)
    return drafted.text, drafted.told


def _from_omop(source: Path, *, title: str) -> tuple[str, Sequence[str]]:
    """Draft from the concept sets of a site.toml and the vocabulary of its database; no record is read."""
    from client.registry.omop.draft import draft_codebook
    from client.site.config import load_site
    from common.errors import Code, FedReasonError

    registry = load_site(source.parent).registry if source.name == "site.toml" else None
    if registry is None or registry.omop is None or registry.url_variable is None:
        raise FedReasonError(
            Code.CODEBOOK_SOURCE,
            f"{source} is no site.toml with [registry.omop].",
            "Name a REDCap data dictionary, a table of records, or a site.toml that asks an OMOP CDM.",
        )
    name = f"the OMOP CDM of {registry.url_variable}"
    text = draft_codebook(registry.url_variable, registry.omop, name=name, title=title)
    return text, [f"{len(registry.omop.columns)} concept sets are described."]


def _config(given: dict[str, object]) -> RegistryConfig:
    """Hold the options against what site.toml would take."""
    from pydantic import ValidationError

    from client.registry.config import RegistryConfig

    try:
        return RegistryConfig.model_validate(given)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    raise typer.BadParameter("; ".join(problems).replace("_", "-"))
