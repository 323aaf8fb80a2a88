"""Command line of a blinded review: made from two models, rated in a browser, told as figures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.options import SiteName
from common.cli import application, console

if TYPE_CHECKING:
    from client.review.store import ReviewStore
    from common.web.accounts import Accounts

Name = Annotated[str, typer.Option("--name", help="Of the review, where a site has several.")]
REVIEW = "review"
review_app = application(None)
account_app = application("Who may rate, at this site.")
review_app.add_typer(account_app, name="account")


@review_app.callback(invoke_without_command=True)
def review(
    context: typer.Context,
    site: Annotated[str | None, typer.Option(help="Name of the site below FEDREASON_HOME, or its folder.")] = None,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Folder that `python -m server export` wrote, or base; give two.")
    ] = None,
    cases: Annotated[int, typer.Option(min=1, max=10_000, help="How many cases are drawn.")] = 40,
    feature: Annotated[str | None, typer.Option(help="Ask for this feature or task alone.")] = None,
    seed: Annotated[int, typer.Option(help="Another number draws other cases.")] = 0,
    name: Name = REVIEW,
) -> None:
    """Have clinicians compare the answers of two models to held-out records, blinded; this makes the answers."""
    if context.invoked_subcommand:
        return
    if site is None or not adapter:
        raise typer.BadParameter("say which site, and which two models: --site NAME --adapter A --adapter B")
    from client.review.make import Plan, make_review
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    with _progress() as report:
        made = make_review(folder, name, adapter, Plan(cases, seed, feature), report)
    named = "" if name == REVIEW else f" --name {name}"
    short = "" if made == cases else f" (not {cases}: no more can be asked)"
    console.print(
        f"{made} cases{short} are answered by both models. They hold patient data and stay at this site.",
        soft_wrap=True,
    )
    console.print(f"Raters: python -m client review account add RATER --site {site}", highlight=False)
    console.print(f"Then:   python -m client review serve --site {site}{named}", highlight=False)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show how many answers there are: a bar on a terminal, else a line at each batch."""
    if not console.is_terminal:
        yield lambda done, total: console.print(f"{done} of {total} answers", highlight=False)
        return
    from rich.progress import Progress

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("answers", total=None)
        yield lambda done, total: bar.update(task, total=total, completed=done)


@review_app.command()
def serve(
    site: SiteName,
    name: Name = REVIEW,
    host: Annotated[
        str, typer.Option(help="Address that raters come to; others than this machine need TLS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8765,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for TLS.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key, as a PEM file.")] = None,
) -> None:
    """Show the cases to raters in their browser until stopped (Ctrl-C or SIGTERM); every rating is saved at once."""
    from client.review.pages import Desk
    from client.site.folders import find_site_folder
    from common.errors import Code, FedReasonError
    from common.web.app import Pages
    from common.web.serve import Server, require_guarded, tls_of

    folder = find_site_folder(site)
    accounts = accounts_of(folder)
    if not accounts.names():
        raise FedReasonError(
            Code.PAGES_ACCOUNT,
            "Nobody may rate yet.",
            f"Add an account for each rater: python -m client review account add RATER --site {site}",
        )
    tls = tls_of(certificate, key)
    require_guarded(host, tls, accounts.names())
    with opened(folder, name) as store:
        desk = Desk(store, accounts)
        server = Server(
            Pages("FedReason review", desk.places, menu=[("Cases", "/")], accounts=accounts), host, port, tls
        )
        console.print(f"Raters come in at {server.link.partition('?')[0]}", highlight=False, soft_wrap=True)
        console.print(f"You see how far they are at {server.link}", highlight=False, soft_wrap=True)
        server.run()


@review_app.command()
def report(site: SiteName, name: Name = REVIEW) -> None:
    """Say which model is preferred, how surely, and how far raters agree; also as a page. It says which is which."""
    from client.review.figures import figures
    from client.review.report import lines, report_page, write
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    with opened(folder, name) as store:
        found = figures(store)
        path = write(store.path.with_suffix(".html"), report_page(found, store, name))
    for line in lines(found):
        print(line)
    print(path)
    if found.left:
        console.print(f"{found.left} ratings are open: whoever has read this rates no more.", style="yellow")


@review_app.command()
def export(
    site: SiteName,
    name: Name = REVIEW,
    summary: Annotated[Path | None, typer.Option(help="Write what may leave to this file: no count below 10.")] = None,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Write every rating to this file; it may not leave.")
    ] = None,
) -> None:
    """Write the summary that an officer may send, or all ratings; nothing is sent by this."""
    if summary is None and table is None:
        raise typer.BadParameter("say what to write: --summary FILE, --csv FILE or both")
    from client.review.figures import figures
    from client.review.report import ratings_csv, write
    from client.review.report import summary as summary_of
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    with opened(folder, name) as store:
        if table is not None:
            print(write(table, ratings_csv(store)))
        if summary is not None:
            print(write(summary, summary_of(figures(store))))


@account_app.command("add")
def account_add(rater: Annotated[str, typer.Argument(help="Name of the account.")], site: SiteName) -> None:
    """Add a rater, or give them another password; it is asked for, or read from standard input."""
    from client.site.folders import find_site_folder

    folder = find_site_folder(site)
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\n")
    accounts_of(folder).add(rater, password)
    console.print(f"{rater} may rate.", highlight=False)


@account_app.command("remove")
def account_remove(rater: Annotated[str, typer.Argument(help="Name of the account.")], site: SiteName) -> None:
    """Take an account away; its ratings stay."""
    from client.site.folders import find_site_folder

    there = accounts_of(find_site_folder(site)).remove(rater)
    console.print(f"{rater} may not rate any more." if there else f"There is no account {rater}.", highlight=False)
    raise typer.Exit(0 if there else 1)


@account_app.command("list")
def account_list(site: SiteName) -> None:
    """Show who may rate."""
    from client.site.folders import find_site_folder

    for rater in accounts_of(find_site_folder(site)).names():
        print(rater)


def opened(folder: Path, name: str) -> AbstractContextManager[ReviewStore]:
    """Open a review of a site that was made."""
    from client.review.store import ReviewStore
    from client.site.config import load_site
    from common.codebook import load_codebook

    config = load_site(folder)
    column = load_codebook(config.codebook).patient
    return ReviewStore.opened(folder, name, required=config.federation is not None, column=column)


def accounts_of(folder: Path) -> Accounts:
    """Return the accounts of a site's raters."""
    from client.review.store import review_folder
    from common.web.accounts import Accounts

    return Accounts(review_folder(folder) / "accounts.json")
