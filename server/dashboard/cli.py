"""`python -m server dashboard`: the coordinator's pages, and who may see them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli import console, tell
from server.options import Folder


def dashboard(
    host: Annotated[
        str, typer.Option(help="Where to serve; another machine's needs TLS and an account.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.")] = 9094,
    certificate: Annotated[Path | None, typer.Option(help="PEM certificate, for another host.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM key of the certificate.")] = None,
    configs: Annotated[
        Path | None, typer.Option(help="Folder of run configurations; by default configs in the federation's.")
    ] = None,
    add: Annotated[str | None, typer.Option(help="Add this account, or change its password, and end.")] = None,
    remove: Annotated[str | None, typer.Option(help="Take this account away, and end.")] = None,
    federation: Folder = None,
) -> None:
    """Serve pages of the federation and its runs, live, until Ctrl-C; nothing depends on them."""
    from common.web.accounts import Accounts
    from common.web.serve import Server, require_guarded, tls_of
    from server.dashboard.bearer import token_of
    from server.dashboard.site import Site
    from server.provisioning.federation import find_federation

    found = find_federation(federation)
    accounts = Accounts(found.folder / "dashboard-accounts.json")
    if add is not None or remove is not None:
        if add is not None:
            accounts.add(add, typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
            print(f"{add} may come in.")
        if remove is not None:
            print(f"{remove} is taken away." if accounts.remove(remove) else f"There is no account {remove}.")
        return
    tls = tls_of(certificate, key)
    require_guarded(host, tls, accounts.names())

    site = Site(found, configs or found.folder / "configs", tell)
    server = Server(site.pages(accounts, token_of(found.folder)), host, port, tls)
    console.print(f"Open {server.link}", highlight=False, markup=False, soft_wrap=True)
    try:
        server.run()
    finally:
        site.jobs.end()
