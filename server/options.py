"""Options that several commands of the coordinator have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path | None,
    typer.Option(
        "--federation",
        envvar="FEDREASON_FEDERATION",
        help="Folder of the federation; by default kits/coordinator, else the folder you are in.",
    ),
]
