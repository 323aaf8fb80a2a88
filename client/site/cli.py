"""Command line of a site's keys: made from the coordinator's kit, told to it, and compared with those of the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.options import SiteName
from common.cli import application, console

if TYPE_CHECKING:
    from common.identity.roster import Row
    from common.messages.request import Request

roster_app = application("The roster: who takes part, with which keys.")


def init(
    kit: Annotated[Path, typer.Option(help="Folder of the kit that the coordinator sent.")],
    folder: Annotated[Path | None, typer.Option(help="Site folder; FEDREASON_HOME/<site> where left out.")] = None,
) -> None:
    """Make this site's keys, and the request that the coordinator admits."""
    from client.site.config import load_site
    from client.site.folders import sites_home
    from client.site.kit import coordinator_fingerprint, init_site
    from common.identity.kit import to_be_read

    place = folder or sites_home() / load_site(kit).name
    request = init_site(kit, place)
    console.print(f"Site folder: {place}")
    print(f"coordinator key  {coordinator_fingerprint(place)}")
    console.print("Compare it with what the coordinator reads to you, and read them these:")
    _print_request(request, place)
    for line in to_be_read(place):
        console.print(line, style="yellow", highlight=False, markup=False, soft_wrap=True)


def _print_request(request: Request, folder: Path) -> None:
    print(f"signing key      {request.fingerprints.signing}")
    print(f"node key         {request.fingerprints.node}")
    console.print(f"Send {folder / 'request.json'} to the coordinator. It is public; what is below keys/ stays here.")


def rotate(
    site: SiteName,
    lost: Annotated[
        bool, typer.Option("--lost", help="The old private keys are gone: nothing signs the request.")
    ] = False,
) -> None:
    """Make new keys in place of the old ones; the coordinator admits the new request."""
    from client.site.folders import find_site_folder
    from client.site.kit import rotate as rotate_keys

    folder = find_site_folder(site)
    _print_request(rotate_keys(folder, lost=lost), folder)
    if lost:
        console.print(
            "The old key did not sign it: read the coordinator these fingerprints, who admits it by --replace."
        )
    console.print("The new keys come into use when you accept the roster that lists them; then start the site again.")


@roster_app.command("show")
def roster_show(site: SiteName) -> None:
    """Show the accepted roster, or what a newer one would change."""
    from client.site.folders import find_site_folder
    from client.site.kit import show_roster

    _print_roster(show_roster(find_site_folder(site)))


@roster_app.command("accept")
def roster_accept(
    site: SiteName,
    path: Annotated[Path | None, typer.Argument(help="roster.json; the one that came with a task if left out.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprints were compared.")] = False,
) -> None:
    """Accept a roster, once its fingerprints were compared with the other sites by telephone or in person."""
    from client.site.folders import find_site_folder
    from client.site.kit import accept_roster, offered_roster, show_roster

    folder = find_site_folder(site)
    offered = offered_roster(folder, path)
    _print_roster(show_roster(folder, path))
    if not yes:
        typer.confirm(f"Compared with every site, and version {offered.version} is right?", abort=True)
    accepted = accept_roster(folder, path, sha256=offered.sha256)
    console.print(f"Version {accepted.roster.version} is accepted.")
    if accepted.rotated:
        console.print("The new keys are in use: start the site again.")


def _print_roster(rows: list[Row]) -> None:
    for row in rows:
        for name, text in row.fingerprints._asdict().items():
            print(f"{row.site:<16} {row.change:<8} {name:<8} {text}")
