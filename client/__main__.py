"""Command line of a hospital: `python -m client --site NAME` takes part; the commands below prepare and watch it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.dashboard.cli import dashboard
from client.draft.cli import codebook
from client.node.cli import outbox, pause, resume, status
from client.options import Json, SiteName
from client.policy.cli import policy_app
from client.review.cli import review_app
from client.site.cli import init, roster_app, rotate
from client.training.cli import training
from common.cli import application, console, run_application
from common.errors import Code, FedReasonError

if TYPE_CHECKING:
    from client.site.config import SiteConfig

app = application(__doc__)
app.add_typer(roster_app, name="roster")
app.add_typer(policy_app, name="policy")
app.add_typer(review_app, name="review")
app.command("codebook")(codebook)
app.command("training")(training)


@app.callback(invoke_without_command=True, no_args_is_help=True)
def run(
    context: typer.Context,
    site: Annotated[str | None, typer.Option(help="Name of the site below FEDREASON_HOME, or its folder.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", hidden=True)] = False,
) -> None:
    """Take part in the federation until stopped (Ctrl-C, SIGTERM, or the end of its terminal)."""
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
    if started_as_another_rank():
        compute_for_first(folder, config)
        return
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda *_: stop.set())
    log_to_file(folder)
    from client.node.node import serve

    serve(folder, config, stop)


def started_as_another_rank() -> bool:
    """Whether torchrun started this process to compute for the first one; see `client.training.launch`."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"


def compute_for_first(folder: Path, config: SiteConfig) -> None:
    """Compute for the first rank, which is the site."""
    from client.training.launch import launched, wait_for_first
    from common.logs import log_to_stderr

    log_to_stderr()
    launch = launched()
    assert launch is not None
    wait_for_first(folder, config, launch)


app.command()(init)
app.command()(rotate)


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


for command in (pause, resume, status, outbox, dashboard):
    app.command()(command)


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
    from client.privacy.budget import ledger_home
    from client.privacy.spending import ledger_json, ledger_lines, plan
    from client.privacy.validity import require_valid_privacy
    from client.site.config import load_site
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    policy = load_policy(folder)
    folder = ledger_home(folder, load_site(folder))
    limits = policy.privacy
    if as_json:
        print(json.dumps(ledger_json(folder, cap=limits.epsilon, delta=limits.delta, verify=verify), indent=1))
    else:
        for line in ledger_lines(folder, cap=limits.epsilon, delta=limits.delta, verify=verify):
            print(line)
    if planned is not None:
        from common.config import load_config

        (config, codebook), counts = load_config(planned), policy.metrics == "noised"
        for line in plan(folder, config, cap=limits.epsilon, delta=policy.delta_of(config), counts=counts):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        policy.refuse(config)
        require_valid_privacy(config, codebook)


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
    """Run the command line. A base model is what stands on this machine: the libraries look for none in the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_application(app)


if __name__ == "__main__":
    main()
