"""Command line of the coordinator: `python -m server provision`, then `up`, `run`, `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli import application, console, run_application, tell
from server.dashboard.cli import dashboard
from server.models.cli import model, warmup
from server.options import Folder

app = application(__doc__)


# --- Provisioning: who belongs to the federation, and with which keys ---


@app.command()
def provision(
    name: Annotated[str, typer.Option(help="Name of the federation.")],
    host: Annotated[list[str], typer.Option(help="Name or address at which the sites reach you; repeat for more.")],
    site: Annotated[list[str], typer.Option(help="Name of a site; repeat for each.")],
    out: Annotated[Path, typer.Option(help="New folder for the kits and your own folder.")] = Path("kits"),
    port: Annotated[int, typer.Option(help="Public port, at the reverse proxy.")] = 9092,
    superlink_port: Annotated[int, typer.Option(help="Port of the SuperLink, on loopback alone.")] = 9093,
    codebook: Annotated[Path | None, typer.Option(help="The federation's codebook; else the synthetic one.")] = None,
) -> None:
    """Make the certificates, your own folder and a kit for each site."""
    from server.provisioning.provision import provision as make

    made = make(name=name, hosts=host, sites=site, out=out, port=port, superlink_port=superlink_port, codebook=codebook)
    for line in made.lines():
        print(line)


@app.command()
def kit(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    out: Annotated[Path | None, typer.Option(help="New folder for the kit; by default beside your own folder.")] = None,
    federation: Folder = None,
) -> None:
    """Make the kit of a site that joins later, or one once more that was lost."""
    from server.provisioning.federation import find_federation
    from server.provisioning.provision import add_kit

    print(f"{add_kit(find_federation(federation), site, out)}: to be sent to {site}")


@app.command()
def admit(
    requests: Annotated[list[Path], typer.Argument(help="request.json of one or more sites.")],
    replace: Annotated[bool, typer.Option(help="Let a site change its keys without its old key's signature.")] = False,
    federation: Folder = None,
) -> None:
    """Add sites to the roster by their request files, or change their keys."""
    from server.provisioning.federation import find_federation
    from server.services.admission import admit as add

    for line in add(find_federation(federation), requests, replace=replace).lines():
        print(line)


@app.command()
def revoke(
    sites: Annotated[list[str], typer.Argument(help="Names of sites.")],
    federation: Folder = None,
) -> None:
    """Take sites off the roster and off the SuperLink."""
    from server.provisioning.federation import find_federation
    from server.services.admission import revoke as remove

    for line in remove(find_federation(federation), sites).lines():
        print(line)


@app.command()
def roster(
    restore: Annotated[
        list[Path] | None, typer.Option(help="roster.json of a site, after an older backup; repeat for each site.")
    ] = None,
    federation: Folder = None,
) -> None:
    """Show the roster: its version, its members and the fingerprints of their keys."""
    from server.provisioning.federation import find_federation
    from server.services.admission import restore_rosters, roster_lines

    found = find_federation(federation)
    for line in restore_rosters(found, restore).lines() if restore else roster_lines(found):
        print(line)


@app.command()
def certificates(
    renew: Annotated[bool, typer.Option(help="Make a new server certificate from the same CA.")] = False,
    federation: Folder = None,
) -> None:
    """Show when the certificates expire; with --renew, make a new one for the server."""
    from server.provisioning import certificates as of
    from server.provisioning.federation import find_federation

    found = find_federation(federation)
    if renew:
        print(f"The old one is in {of.renew_server_certificate(found)}. Start nginx and the SuperLink again.")
    for line in of.certificate_lines(found):
        print(line)
    for warning in of.expiry_warnings(found):
        console.print(warning, style="yellow", highlight=False, soft_wrap=True)
    of.require_valid_certificates(found)


# --- Base models: what the sites copy ---


app.command()(model)
app.command()(warmup)


# --- Running: the services, and the runs that they carry ---

Config = Annotated[Path, typer.Argument(help="Run configuration (TOML).")]
Run = Annotated[str, typer.Argument(help="Name of the run.")]
Json = Annotated[bool, typer.Option("--json", help="For a program.")]
Base = Annotated[str | None, typer.Option(help="Base model, where it is not where the run or the adapter says.")]


@app.command()
def up(
    federation: Folder = None,
    show: Annotated[bool, typer.Option("--print", help="Print the plain command lines of Flower and end.")] = False,
    insecure: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Start the SuperLink and the superexec and keep them running, until Ctrl-C or `stop`."""
    import os
    import shlex

    from common.errors import Code, FedReasonError
    from server.provisioning.deploy import proxy_command, render
    from server.provisioning.federation import find_federation
    from server.rounds.runs import Reviver
    from server.services.coordinator import up as serve
    from server.services.supervision import plain_commands, prepare

    if insecure:
        raise FedReasonError(
            Code.SERVER_INSECURE, "--insecure asks for a coordinator without TLS.", "There is none: leave it out."
        )
    found = find_federation(federation)
    if show:
        prepare(found)
        render(found)
        for line in (*plain_commands(found), shlex.join(proxy_command(found))):
            print(line)
        return

    os.umask(0o077)
    serve(found, tell, Reviver(found, tell).look)


@app.command()
def stop(federation: Folder = None) -> None:
    """Stop the coordinator that `up` started. Runs go on from their last round when it is started again."""
    from server.provisioning.federation import find_federation
    from server.services.coordinator import stop as end

    print("Stopped." if end(find_federation(federation)) else "No coordinator runs.")


@app.command()
def health(federation: Folder = None) -> None:
    """Say on one line whether the services answer; exit status 1 where one does not."""
    from server.provisioning.federation import find_federation
    from server.services.supervision import services_up

    services = services_up(find_federation(federation))
    print(", ".join(f"{name} {'up' if answers else 'DOWN'}" for name, answers in services.items()))
    if not all(services.values()):
        raise typer.Exit(1)


@app.command()
def run(
    config: Config,
    detach: Annotated[bool, typer.Option(help="Start the run and do not wait for its end.")] = False,
    federation: Folder = None,
) -> None:
    """Start or resume a run and follow it; Ctrl-C leaves it running."""
    from common.cli import INTERRUPTED
    from common.config import load_config
    from server.provisioning.federation import find_federation
    from server.rounds.following import follow, last_round
    from server.rounds.runs import start
    from server.services.supervision import require_services

    loaded, _ = load_config(config)
    found = find_federation(federation)
    require_services(found)
    found.require_own(loaded)
    name, folder = loaded.name, found.runs / loaded.name
    try:
        started = start(found, config, loaded)
        console.print(f"{name} {'was handed to Flower' if started else 'is under way or finished already'}: {folder}")
        if detach:
            return
        standing = follow(found, folder, console)
    except KeyboardInterrupt:
        console.print(
            f"{name} goes on. The same command follows it again; `python -m server abort {name}` stops it.",
            highlight=False,
        )
        raise typer.Exit(INTERRUPTED) from None
    print(f"{name} finished: {standing.rounds} rounds; the last took {last_round(standing) or 'no time'}.")
    print(f"python -m server report {name}    python -m server export {name} --out FOLDER")


@app.command()
def ask(config: Config, json: Json = False, federation: Folder = None) -> None:
    """Ask every site whether it would take part in a run; exit status 1 where the quorum would not be met.

    Ctrl-C takes the question back.
    """
    from json import dumps

    from common.config import load_config
    from server.provisioning.federation import find_federation
    from server.reports.forecast import ask as put
    from server.reports.forecast import document
    from server.reports.tables import show_forecasts
    from server.rounds.following import answering
    from server.services.supervision import require_services

    loaded, _ = load_config(config)
    found = find_federation(federation)
    require_services(found)
    found.require_own(loaded)
    with answering(loaded.name, loaded.federation.sites, console) as show:
        forecasts = put(found, config, loaded, show)
    answer = document(forecasts, loaded)
    if json:
        print(dumps(answer, indent=1))
    else:
        show_forecasts(forecasts, loaded)
        takers = sum(one.takes_part for one in forecasts.sites)
        print(f"{takers} of {len(forecasts.sites)} sites would take part; the quorum is {loaded.quorum}.")
    if not answer["would_start"]:
        raise typer.Exit(1)


@app.command()
def status(
    run: Annotated[str | None, typer.Option("--run", help="Of this run alone.")] = None,
    json: Json = False,
    federation: Folder = None,
) -> None:
    """Show services, certificates, who is online and how each run stands."""
    from json import dumps

    from server.provisioning.federation import find_federation
    from server.reports.status import status_of
    from server.reports.tables import show_status

    found = status_of(find_federation(federation), run)
    if json:
        print(dumps(found.document(), indent=1))
    else:
        show_status(found)


app.command()(dashboard)


@app.command()
def abort(run: Run, federation: Folder = None) -> None:
    """Stop a run everywhere. What was done is kept."""
    from server.provisioning.federation import find_federation
    from server.rounds.runs import abort as end

    print(f"{run} was aborted." if end(find_federation(federation), run) else f"{run} had ended already.")


@app.command()
def report(run: Run, federation: Folder = None) -> None:
    """Write the HTML report of a run and print where it is."""
    from server.provisioning.federation import find_federation
    from server.reports.report import write_run_report
    from server.rounds.runs import find_run

    print(write_run_report(find_run(find_federation(federation), run)))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Name of the run, or the path of a simulated one, as runs/demo.")],
    out: Annotated[Path, typer.Option(help="New folder for the adapter.")],
    merge: Annotated[bool, typer.Option(help="Also write the base with the adapter in its weights.")] = False,
    base: Base = None,
    federation: Folder = None,
) -> None:
    """Write the adapter of a run's last round as a PEFT folder, with model card and reporting checklist."""
    from common.logs import quiet_libraries
    from server.provisioning.federation import find_federation
    from server.reports.export import export_adapter
    from server.rounds.runs import find_run

    with console.status("writing the adapter"):
        quiet_libraries()
        folder = Path(run) if "/" in run else find_run(find_federation(federation), run)
        written = export_adapter(folder, out, base, merge=merge)
    print(written)


@app.command()
def generate(
    adapter: Annotated[Path, typer.Option(help="Folder that `export` wrote.")],
    question: Annotated[
        str | None, typer.Argument(help="Record, question and choices; else on standard input.")
    ] = None,
    base: Base = None,
) -> None:
    """Answer a question by an exported adapter; nothing is kept of it."""
    from server.reports.adapter import generate_answer, given_question

    asked = given_question(question)
    with console.status("answering"):
        answer = generate_answer(adapter, asked, base)
    print(answer)


def main() -> None:
    """Run the command line."""
    run_application(app)


if __name__ == "__main__":
    main()
