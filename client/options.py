"""Options that several commands of a hospital have."""

from __future__ import annotations

from typing import Annotated

import typer

SiteName = Annotated[str, typer.Option("--site", help="Name of the site below FEDREASON_HOME, or its folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
