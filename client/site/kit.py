"""What a site makes of its kit: its own keys, a request to be admitted, and the roster that people here accepted.

Private keys are made here and stay here. A roster counts once someone has compared its fingerprints and accepted it;
one that arrives with a task is only kept beside it, as pending.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from client.site.anchor import ANCHOR, new_anchor, write_anchor
from client.site.config import load_site
from client.site.decisions import decided
from client.site.exclusions import EXCLUSIONS_FILE
from client.site.keys import REQUEST, SIGNING, Keys, make_request, next_keys, own_keys, use_next_keys
from client.site.secret import new_split_secret
from common.errors import Code, FedReasonError
from common.fresh import fresh_folder
from common.identity.keys import (
    fingerprint,
    load_signing_key,
    private_folder,
    read_public,
    write_private,
)
from common.identity.kit import COORDINATOR_KEY, EDITABLE, MANIFEST, SEALED, read_kit
from common.identity.roster import Roster, Row, compare, read_roster
from common.messages.request import Request

ROSTER = "roster.json"
PENDING = "roster.pending.json"
NEWER_ROSTER = "a newer roster waits: compare its fingerprints with the coordinator, then accept it"


class Accepted(NamedTuple):
    """What accepting a roster did: `rotated` where it also put new keys to use, for which the site must start again."""

    roster: Roster
    rotated: bool


def init_site(kit: Path, folder: Path) -> Request:
    """Make a site's folder from its kit, with new keys, and write the request to be admitted.

    Raises
    ------
    FedReasonError
        KIT_EXISTS where the folder holds anything; else where the kit is not whole, or not as the coordinator made it.
    """
    made_for = read_kit(kit)
    config = load_site(kit)
    if (config.name, config.federation) != (made_for.site, made_for.federation):
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{kit / 'site.toml'} says {config.name} of {config.federation}, the kit is for {made_for.site} "
            f"of {made_for.federation}.",
            "Put back `name` and `federation`: the coordinator chose them.",
        )
    with fresh_folder(folder) as new:
        for name in (*EDITABLE, *SEALED, COORDINATOR_KEY, MANIFEST):
            if (kit / name).is_file():
                write_private(new / name, (kit / name).read_bytes())
        write_private(new / EXCLUSIONS_FILE, b"# Patients who opted out, one identifier a line; read at every round.\n")
        request = make_request(new, new / "keys", made_for.federation, made_for.site)
        new_split_secret(new)
        write_anchor(new / ANCHOR, new_anchor(), load_signing_key(new / "keys" / SIGNING))
        return request


def rotate(folder: Path, *, lost: bool = False) -> Request:
    """Make new keys in keys/next and write a request that the old signing key signs too.

    The old keys stay in use until a roster with the new ones is accepted; then they move to keys/old-<time>.

    Parameters
    ----------
    lost
        The old private keys are gone: the request goes without their signature, and all else of the site stays.

    Raises
    ------
    FedReasonError
        KIT_EXISTS where keys/next waits already, KEY_MISSING where the old keys are gone and that was not said, or
        their public half is, too, and no roster tells it.
    """
    waiting = folder / "keys" / "next"
    if waiting.exists():
        raise FedReasonError(
            Code.KIT_EXISTS,
            f"{waiting} holds new keys already, which wait for the coordinator.",
            f"Send {REQUEST} to the coordinator, or remove that folder to start over.",
        )
    federation, site = _federation(folder), load_site(folder).name
    if lost:
        _require_public(folder, site)
    old = None if lost else load_signing_key(folder / "keys" / SIGNING)
    with fresh_folder(waiting) as new:
        return make_request(folder, new, federation, site, replaces=old)


def _require_public(folder: Path, site: str) -> None:
    """Put back the public half of the signing key, by which the ledger is checked, from the roster where it is gone."""
    path = folder / "keys" / f"{SIGNING}.pub"
    if path.exists():
        return
    roster = accepted_or_none(folder)
    member = roster.member(site) if roster else None
    if member is None:
        raise FedReasonError(
            Code.KEY_MISSING,
            f"{path} is gone too, and no roster that was accepted here has it: the ledger cannot be checked without.",
            "Put it back from your backup. A site that never took part is made anew: move its folder away, then "
            "`python -m client init --kit KIT`.",
        )
    private_folder(path.parent)
    write_private(path, f"{member.signing_key}\n".encode())


def _federation(folder: Path) -> str:
    """Name of the federation that a site belongs to."""
    name = load_site(folder).federation
    if name is None:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{folder / 'site.toml'} names no federation.",
            "Make the site by `python -m client init --kit KIT`.",
        )
    return name


def coordinator_fingerprint(folder: Path) -> str:
    """Return the fingerprint that the coordinator reads out by telephone; of a kit or a site's folder."""
    return fingerprint(_signer(folder))


def _signer(folder: Path) -> str:
    return read_public(folder / COORDINATOR_KEY)


def accepted_roster(folder: Path) -> Roster:
    """Return the roster that was accepted here.

    Raises
    ------
    FedReasonError
        ROSTER_MISSING where none was, ROSTER_SIGNATURE where the file is not the coordinator's.
    """
    if not (folder / ROSTER).exists():
        raise FedReasonError(
            Code.ROSTER_MISSING,
            f"No roster has been accepted in {folder}.",
            "Compare the fingerprints and accept one by `python -m client roster accept`.",
        )
    return read_roster(folder / ROSTER, _signer(folder))


def accepted_or_none(folder: Path) -> Roster | None:
    """Return it where one was; ROSTER_SIGNATURE as before."""
    return accepted_roster(folder) if (folder / ROSTER).exists() else None


def receive_roster(folder: Path, text: str) -> Roster:
    """Check a roster that came with a task; one newer than the accepted one is kept as pending, and changes nothing.

    Raises
    ------
    FedReasonError
        ROSTER_SIGNATURE where the coordinator did not sign it, ROSTER_CHANGED where it is older than one seen before.
    """
    roster = _checked(folder, text, "The roster that came with a task")
    accepted = accepted_or_none(folder)
    if accepted is None or roster.version > accepted.version:
        pending = folder / PENDING
        if pending.exists():
            _require_no_step_back(read_roster(pending, _signer(folder)), roster)
        write_private(pending, text.encode())
    return roster


def require_roster(folder: Path, sha256: str | None, text: str | None = None) -> Roster:
    """Refuse a task that is not bound to the accepted roster; a newer roster that comes with it is kept as pending.

    Raises
    ------
    FedReasonError
        ROSTER_MISSING where none was accepted, ROSTER_CHANGED where the task is bound to another.
    """
    if text is not None:
        receive_roster(folder, text)
    accepted = accepted_roster(folder)
    if sha256 != accepted.sha256:
        bound = "no roster" if sha256 is None else f"roster {sha256[:12]}"
        raise FedReasonError(
            Code.ROSTER_CHANGED,
            f"The task is bound to {bound}, {folder} accepted version {accepted.version} ({accepted.sha256[:12]}).",
            "Compare the fingerprints of the new roster and accept it by `python -m client roster accept`.",
        )
    return accepted


def newer_waits(folder: Path) -> bool:
    """Whether a task brought a newer roster that nobody here has accepted yet."""
    return (folder / PENDING).exists()


def offered_roster(folder: Path, path: Path | None = None) -> Roster:
    """Return the roster that could be accepted now: of `path`, else the pending one.

    Raises
    ------
    FedReasonError
        Where there is none, the coordinator did not sign it, it is older than the accepted one, or it lists other keys
        for this site than its own.
    """
    return _offered(folder, path)[0]


def show_roster(folder: Path, path: Path | None = None) -> list[Row]:
    """Return every peer's fingerprints, and what the offered roster changes; without one, the accepted roster."""
    accepted = accepted_or_none(folder)
    if path is None and accepted is not None and not newer_waits(folder):
        return compare(accepted, accepted)
    return compare(accepted, offered_roster(folder, path))


def accept_roster(folder: Path, path: Path | None = None, *, sha256: str | None = None) -> Accepted:
    """Pin the offered roster; keys made by `rotate` that it lists come into use.

    Parameters
    ----------
    folder
        The site's folder.
    path
        The roster's file; None for the pending one.
    sha256
        Hash of the roster whose fingerprints were shown, so that no other one is accepted in its place.

    Raises
    ------
    FedReasonError
        As `offered_roster` does; ROSTER_CHANGED too where it is not the one that was shown.
    """
    roster, text = _offered(folder, path)
    if sha256 not in (None, roster.sha256):
        raise FedReasonError(
            Code.ROSTER_CHANGED,
            "Another roster came in while the fingerprints were being compared.",
            "Show it again, compare and accept that one.",
        )
    before = accepted_or_none(folder)
    if before is None or before.sha256 != roster.sha256:
        decided(folder, "roster", before=before.sha256 if before else None, after=roster.sha256)
    rotated = (folder / "keys" / "next").exists() and _entry(roster, load_site(folder).name) == next_keys(folder)
    if rotated:
        use_next_keys(folder)
    write_private(folder / ROSTER, text.encode())
    pending = folder / PENDING
    if pending.exists() and read_roster(pending, _signer(folder)).version <= roster.version:
        pending.unlink()
    return Accepted(roster, rotated)


def _offered(folder: Path, path: Path | None) -> tuple[Roster, str]:
    source = path or folder / PENDING
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FedReasonError(
            Code.ROSTER_MISSING,
            f"{source} cannot be read ({type(error).__name__}).",
            "A roster comes with the coordinator's next run, or ask for the file and name it.",
        ) from None
    roster = _checked(folder, text, str(source))
    name = load_site(folder).name
    entry = _entry(roster, name)
    if entry is None:
        found, fix = f"lacks {name}", "Ask the coordinator: either you were revoked, or not admitted yet."
    elif entry != next_keys(folder) and entry != own_keys(folder):
        found, fix = f"lists other keys for {name} than those in {folder / 'keys'}", "Do not accept it. Telephone."
    else:
        return roster, text
    raise FedReasonError(Code.ROSTER_CHANGED, f"Version {roster.version} of the roster {found}.", fix)


def _checked(folder: Path, text: str, where: str) -> Roster:
    """Read a roster; refuse one of another federation, and one that takes back what was accepted."""
    roster = read_roster(text, _signer(folder), where=where)
    federation = _federation(folder)
    if roster.federation != federation:
        raise FedReasonError(
            Code.ROSTER_CHANGED,
            f"{where} is of the federation {roster.federation}, this site belongs to {federation}.",
            "Ask the coordinator for the roster of your federation.",
        )
    accepted = accepted_or_none(folder)
    if accepted is not None:
        _require_no_step_back(accepted, roster)
    return roster


def _require_no_step_back(known: Roster, new: Roster) -> None:
    """Refuse a roster older than a known one, and another one of the same version."""
    if new.version < known.version or (new.version == known.version and new.sha256 != known.sha256):
        what = "is older than" if new.version < known.version else "differs from"
        raise FedReasonError(
            Code.ROSTER_CHANGED,
            f"Version {new.version} of the roster {what} version {known.version}, which is known here.",
            "Do not accept it. Ask the coordinator, by telephone, which version is the latest.",
        )


def _entry(roster: Roster, site: str) -> Keys | None:
    member = roster.member(site)
    return Keys(member.signing_key, member.node_key) if member else None
