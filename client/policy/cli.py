"""Command line of the site's policy, `python -m client policy`: the officer signs it, the site checks and shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.options import SiteName
from common.cli import application, console

if TYPE_CHECKING:
    from client.policy.policy import Policy, PolicyInForce

policy_app = application("The site's policy: what a run may ask of it at most, signed by its privacy officer.")


@policy_app.command()
def keygen(
    out: Annotated[Path, typer.Option(help="File of the private key; the public half is written beside it, .pub.")],
) -> None:
    """Make the privacy officer's own key, on a machine of their choice."""
    from client.policy.signature import new_officer_key

    print(f"officer key      {new_officer_key(out)}")
    console.print(f"Keep {out} to yourself. Give {out}.pub to the site, and read it this fingerprint.")


@policy_app.command()
def trust(
    site: SiteName,
    public: Annotated[Path, typer.Argument(help="The officer's public key, officer.pub.")],
    replace: Annotated[bool, typer.Option("--replace", help="Let it take the place of another officer's key.")] = False,
) -> None:
    """Pin the officer's key: from now on the site uses no policy that this officer did not sign."""
    from client.policy.policy import read_policy
    from client.policy.signature import pin_officer
    from client.site.folders import find_site_folder
    from common.errors import FedReasonError

    folder = find_site_folder(site)
    print(f"officer key      {pin_officer(folder, public, replace=replace)}")
    console.print("Compare it with what the officer reads to you.")
    try:
        read_policy(folder)
    except FedReasonError as error:
        console.print(f"Until that is settled the site takes part in nothing: {error}", markup=False)


@policy_app.command()
def sign(
    path: Annotated[Path, typer.Argument(help="The policy to sign, policy.toml.")],
    key: Annotated[Path, typer.Option(help="The officer's private key.")],
) -> None:
    """Sign a policy as it stands, after reading it; the signature is written beside it."""
    from client.policy.policy import parsed_policy, policy_bytes
    from client.policy.signature import sign_policy
    from common.identity.keys import load_signing_key

    content = policy_bytes(path)
    _print_values(parsed_policy(content, path))
    console.print(f"Signed: {sign_policy(path, content, load_signing_key(key))} belongs beside {path.name}.")


@policy_app.command()
def verify(site: SiteName) -> None:
    """Check that the pinned officer signed the site's policy as it stands, and show it."""
    from client.policy.policy import POLICY_FILE, read_policy
    from client.policy.signature import OFFICER_KEY
    from client.site.folders import find_site_folder
    from common.errors import Code, FedReasonError

    folder = find_site_folder(site)
    found = read_policy(folder)
    if found.approval is None:
        raise FedReasonError(
            Code.POLICY_SIGNATURE,
            f"{folder} pins no {OFFICER_KEY}, so nothing says who wrote {POLICY_FILE}.",
            "Pin the officer's public key: python -m client policy trust.",
        )
    _print_policy(found)


@policy_app.command()
def show(site: SiteName) -> None:
    """Show every limit in force, those that policy.toml leaves out too."""
    from client.policy.policy import read_policy
    from client.site.folders import find_site_folder

    _print_policy(read_policy(find_site_folder(site)))


@policy_app.command()
def confirm(
    site: SiteName,
    sha256: Annotated[str | None, typer.Option(help="Hash of the policy that is meant, instead of a question.")] = None,
) -> None:
    """Confirm a policy that allows more than the one the site last used."""
    from client.policy.change import keep, loosened, read_kept
    from client.policy.policy import read_policy
    from client.site.folders import find_site_folder
    from common.errors import Code, FedReasonError

    folder = find_site_folder(site)
    found, kept = read_policy(folder), read_kept(folder)
    more = loosened(kept.policy, found.policy) if kept else []
    for line in more:
        print(line)
    if not more:
        console.print("It allows nothing that was not allowed before: there is nothing to confirm.")
        return
    print(f"sha256 {found.sha256}")
    if sha256 is None:
        typer.confirm("Let the site use it?", abort=True)
    elif sha256 != found.sha256:
        raise FedReasonError(
            Code.POLICY_WEAKER,
            f"The policy of {folder} is {found.sha256[:12]}, not {sha256[:12]}.",
            "Read it again: it was changed since.",
        )
    keep(folder, found, confirmed=True)
    console.print("Confirmed: the site uses it from its next start or message on.")


def _print_policy(found: PolicyInForce) -> None:
    _print_values(found.policy)
    print(f"{'sha256':<30} {found.sha256}")
    signed = found.approval
    print(f"{'signed':<30} {f'{signed.signed:%Y-%m-%d %H:%M %Z} by {signed.officer}' if signed else 'no'}")


def _print_values(policy: Policy) -> None:
    for name, value in values(policy).items():
        print(f"{name:<30} {value}")


def values(policy: Policy) -> dict[str, str]:
    """Return every limit by its dotted key as policy.toml writes it, what was left out filled in."""
    import json

    table = policy.model_dump(mode="json")
    limits = table.pop("privacy") | {"required": policy.requires_privacy}
    flat = {name: value for name, value in table.items() if name != "patient"}
    flat |= {f"patient.{name}": value for name, value in table["patient"].items()}
    flat |= {f"privacy.{name}": value for name, value in limits.items()}
    shown = {name: "any" if value is None else json.dumps(value) for name, value in flat.items()}
    private, other = policy.floors
    shown["privacy.min_sites"] = f"{private}" if private == other else f"{private}; {other} if not private"
    return shown
