"""Command line of a hospital: `python -m client --site NAME` takes part; the commands below prepare and watch it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.draft.cli import codebook
from client.policy.cli import policy_app
from client.training.cli import training
from common.cli import application, console, run_application
from common.errors import Code, FedReasonError

if TYPE_CHECKING:
    from common.identity.roster import Row
    from common.messages.request import Request

app = application(__doc__)
roster_app = application("The roster: who takes part, with which keys.")
app.add_typer(roster_app, name="roster")
app.add_typer(policy_app, name="policy")
app.command("codebook")(codebook)
app.command("training")(training)

SiteName = Annotated[str, typer.Option("--site", help="Name of the site below FEDREASON_HOME, or its folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True, no_args_is_help=True)
def run(
    context: typer.Context,
    site: Annotated[str | None, typer.Option(help="Name of the site below FEDREASON_HOME, or its folder.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", hidden=True)] = False,
) -> None:
    """Take part in the federation until stopped (Ctrl-C or SIGTERM)."""
    if context.invoked_subcommand:
        return
    if insecure:
        raise FedReasonError(
            Code.SERVER_INSECURE,
            "A site has no insecure mode.",
            "Leave it out; the kit has all that TLS needs.",
        )
    if site is None:
        raise typer.BadParameter("say which site: --site NAME")
    from client.node.log import log_to_file
    from client.site.config import load_site
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    config = load_site(folder)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log_to_file(folder)
    from client.node.node import serve

    serve(folder, config, stop)


@app.command()
def init(
    kit: Annotated[Path, typer.Option(help="Folder of the kit that the coordinator sent.")],
    folder: Annotated[Path | None, typer.Option(help="Site folder; FEDREASON_HOME/<site> where left out.")] = None,
) -> None:
    """Make this site's keys, and the request that the coordinator admits."""
    from client.site.config import load_site
    from client.site.folders import sites_home
    from client.site.kit import coordinator_fingerprint, init_site

    place = folder or sites_home() / load_site(kit).name
    request = init_site(kit, place)
    console.print(f"Site folder: {place}")
    print(f"coordinator key  {coordinator_fingerprint(place)}")
    console.print("Compare it with what the coordinator reads to you, and read them these:")
    _print_request(request, place)


def _print_request(request: Request, folder: Path) -> None:
    print(f"signing key      {request.fingerprints.signing}")
    print(f"node key         {request.fingerprints.node}")
    console.print(f"Send {folder / 'request.json'} to the coordinator. It is public; what is below keys/ stays here.")


@app.command()
def rotate(site: SiteName) -> None:
    """Make new keys in place of the old ones; the coordinator admits the new request."""
    from client.site.folders import find_site_folder
    from client.site.kit import rotate as rotate_keys

    folder = find_site_folder(site)
    _print_request(rotate_keys(folder), folder)
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


@app.command()
def check(
    site: SiteName,
    planned: Annotated[Path | None, typer.Option("--run", help="Also hold the site against this run.")] = None,
    as_json: Json = False,
) -> None:
    """Check files, keys, policy, connection and registry, and say in counts what is wrong; 1 where anything refuses."""
    import json

    from client.inspection.check import check_site
    from client.inspection.report import as_json as checked_json
    from client.inspection.report import feature_table, finding_lines, line_text, unread_table
    from client.site.config import load_site
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    screen = Console(highlight=False, soft_wrap=True, quiet=as_json)
    checked = check_site(folder, load_site(folder), planned, tell=lambda line: screen.print(line_text(line)))
    if as_json:
        print(json.dumps(checked_json(checked), indent=1))
    elif checked.inspection is not None:
        Console().print(feature_table(checked.inspection))
        if checked.inspection.unread:
            Console().print(unread_table(checked.inspection))
        for line in finding_lines(checked.inspection):
            screen.print(line)
    raise typer.Exit(0 if checked.well else 1)


@app.command()
def model(
    planned: Annotated[
        Path | None, typer.Option("--run", help="The run that is to come; else the demo's model.")
    ] = None,
) -> None:
    """Make the small model of a run that trains one, so that no site has to do it when the run starts."""
    from client.training.maker import make

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(make(planned, console))


@app.command()
def preview(
    site: SiteName,
    feature: Annotated[str | None, typer.Option(help="Ask for this feature or task alone.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many questions.")] = 10,
    view: Annotated[str, typer.Option(help="View of the codebook.")] = "full",
    seed: Annotated[int, typer.Option(help="Another number shows other patients.")] = 0,
    html: Annotated[bool, typer.Option("--html", help="Write a page instead: state/preview.html.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the page to this file.")] = None,
) -> None:
    """Show questions as the model would see them, with the right answers; they hold patient data and stay here."""
    from client.preview.page import write_page
    from client.preview.questions import previews
    from client.preview.text import NOTICE, shown
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    found = previews(folder, item=feature, count=count, view=view, seed=seed)
    if html or out is not None:
        print(write_page(folder, found, out))
    else:
        screen = Console(highlight=False, soft_wrap=True)
        for part in shown(found):
            screen.print(part)
    console.print(NOTICE, style="yellow", highlight=False, markup=False)


@app.command()
def leaks(
    site: SiteName,
    planned: Annotated[Path, typer.Option("--run", help="Look at this run's training patients.")],
) -> None:
    """Propose leak groups: features that tell each other's values here, and are shown together."""
    from client.inspection.leaks import leak_lines
    from client.site.folders import find_site_folder

    for line in leak_lines(find_site_folder(site), planned):
        print(line)


@app.command()
def pause(site: SiteName, reason: Annotated[str, typer.Option(help="For the log of this site.")] = "") -> None:
    """Stop computing at once and free the GPU; rounds go on without this site until it resumes."""
    from client.node.hours import pause as pause_site
    from client.site.folders import find_site_folder

    pause_site(find_site_folder(site), reason)
    console.print("Paused.")


@app.command()
def resume(site: SiteName) -> None:
    """Take part again: after a pause, or after attempts that ended without an answer (E817) were looked into."""
    from client.node.hours import resume as resume_site
    from client.site.folders import find_site_folder
    from client.training.states import Attempts

    folder = find_site_folder(site)
    resume_site(folder)
    Attempts(folder).go_on()
    console.print("Resumed.")


@app.command()
def status(site: SiteName, as_json: Json = False) -> None:
    """Show what the site is doing; the exit status is 0 where all is well."""
    from client.node.status import health, read_status, status_lines
    from client.site.folders import find_site_folder
    from client.site.stage import read_stage

    folder = find_site_folder(site)
    record = read_status(folder)
    if as_json:
        print("{}" if record is None else record.model_dump_json(indent=1))
    else:
        for line in status_lines(folder.name, record, stage=read_stage(folder)):
            print(line)
    raise typer.Exit(0 if health(record).well else 1)


@app.command()
def outbox(
    site: SiteName,
    contents: Annotated[int | None, typer.Option(help="Number of a message: write what was sent to stdout.")] = None,
    as_json: Json = False,
) -> None:
    """Show every message that left this site: when, what, its size and hash."""
    import json
    from dataclasses import asdict

    from client.node.outbox import contents as contents_of
    from client.node.outbox import read_entries, table
    from client.site.folders import find_site_folder

    folder = find_site_folder(site) / "state" / "outbox"
    if contents is not None:
        content = contents_of(folder, contents)
        if content is None:
            raise typer.BadParameter(f"the content of message {contents} is not kept (keep_contents in site.toml)")
        sys.stdout.buffer.write(content)
    elif as_json:
        print(json.dumps([asdict(entry) for entry in read_entries(folder)], indent=1))
    else:
        Console().print(table(read_entries(folder)))


@app.command()
def ledger(
    site: SiteName,
    verify: Annotated[bool, typer.Option("--verify", help="Check every line, and compute what it cost anew.")] = False,
    planned: Annotated[Path | None, typer.Option("--plan", help="Also say what this run would cost.")] = None,
    as_json: Json = False,
) -> None:
    """Show the privacy budget: what was spent, by run, and what is left."""
    import json

    from client.policy.policy import load_policy
    from client.privacy.spending import ledger_json, ledger_lines, plan
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    policy = load_policy(folder)
    limits = policy.privacy
    if as_json:
        print(json.dumps(ledger_json(folder, cap=limits.epsilon, verify=verify), indent=1))
    else:
        for line in ledger_lines(folder, cap=limits.epsilon, verify=verify):
            print(line)
    if planned is not None:
        from common.config import load_config

        config, counts = load_config(planned)[0], policy.metrics == "noised"
        for line in plan(folder, config, cap=limits.epsilon, delta=limits.delta, counts=counts):
            console.print(line, highlight=False, markup=False)


@app.command()
def units(out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("units")) -> None:
    """Write a systemd unit and a compose file that run sites as services."""
    import shutil
    from importlib.resources import as_file, files

    with as_file(files("client") / "templates") as templates:
        shutil.copytree(templates, out, dirs_exist_ok=True)
    for path in sorted(out.rglob("*.*")):
        print(path)


def main() -> None:
    """Run the command line."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_application(app)


if __name__ == "__main__":
    main()
