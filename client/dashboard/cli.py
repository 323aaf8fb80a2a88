"""`python -m client dashboard`: the pages of a site, for the people of its hospital."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.options import SiteName
from common.cli import console


def dashboard(
    site: SiteName,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes any that is free.")] = 9095,
    planned: Annotated[
        list[Path] | None, typer.Option("--plan", help="A run whose cost the budget's page can tell; several times.")
    ] = None,
) -> None:
    """Show in a browser, on this machine alone, what the site does, sent, spent and may; until Ctrl-C."""
    from client.dashboard.site import server
    from client.site.folders import find_site_folder
    from common.config import load_config

    folder = find_site_folder(site)
    for path in planned or []:
        load_config(path)
    found = server(folder, port, planned or [])
    console.print(f"Open {found.link}", highlight=False, markup=False, soft_wrap=True)
    found.run()
