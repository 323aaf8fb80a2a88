"""Command line of a running site: hold it, and see what it does and what left it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from client.options import Json, SiteName
from common.cli import console


def pause(site: SiteName, reason: Annotated[str, typer.Option(help="For the log of this site.")] = "") -> None:
    """Stop computing at once and free the GPU; rounds go on without this site until it resumes."""
    from client.node.hours import pause as pause_site
    from client.site.folders import find_site_folder

    pause_site(find_site_folder(site), reason)
    console.print("Paused.")


def resume(site: SiteName) -> None:
    """Take part again: after a pause, or after attempts that ended without an answer (E817) were looked into."""
    from client.node.hours import resume as resume_site
    from client.site.folders import find_site_folder
    from client.training.states import Attempts

    folder = find_site_folder(site)
    Attempts(folder).go_on()
    resume_site(folder)
    console.print("Resumed.")


def status(site: SiteName, as_json: Json = False) -> None:
    """Show what the site is doing; the exit status is 0 where all is well."""
    import json

    from client.node.status import health, read_status, status_lines
    from client.site.folders import find_site_folder
    from client.site.kit import NEWER_ROSTER, newer_waits

    folder = find_site_folder(site)
    record = read_status(folder)
    if as_json:
        judged = health(record)
        told = {} if record is None else record.model_dump(mode="json")
        told |= {"well": judged.well, "why": judged.text, "newer_roster": newer_waits(folder)}
        print(json.dumps(told, indent=1))
    else:
        for line in status_lines(folder.name, record):
            print(line)
        if newer_waits(folder):
            print(f"  {NEWER_ROSTER}: python -m client roster accept --site {folder.name}")
    raise typer.Exit(0 if health(record).well else 1)


def outbox(
    site: SiteName,
    contents: Annotated[int | None, typer.Option(help="Number of a message: write what was sent to stdout.")] = None,
    as_json: Json = False,
) -> None:
    """Show every message that left this site: when, what, its size and hash."""
    import json
    from dataclasses import asdict

    from client.node.listing import table
    from client.node.outbox import contents as contents_of
    from client.node.outbox import looked_at
    from client.site.folders import find_site_folder

    folder = find_site_folder(site) / "state" / "outbox"
    if contents is not None:
        content = contents_of(folder, contents)
        if content is None:
            raise typer.BadParameter(f"the content of message {contents} is not kept (keep_contents in site.toml)")
        sys.stdout.buffer.write(content)
    elif as_json:
        print(json.dumps([asdict(entry) for entry in looked_at(folder).entries], indent=1))
    else:
        Console().print(table(looked_at(folder)))
