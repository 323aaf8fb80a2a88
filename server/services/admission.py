"""Who belongs to the federation: requests become roster versions, and roster versions become keys at the SuperLink.

A change is made when `roster.json` is replaced; everything else follows from that file and is put right by the next
command where one was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from common.cli import is_disk_full
from common.errors import Code, FedReasonError
from common.identity.keys import fingerprint, load_signing_key, private_folder, write_private
from common.identity.roster import Member, Roster, Row, compare, read_roster, sign_roster
from common.messages.request import Request, bad_request, read_request
from server.provisioning.deploy import write_admitted_keys
from server.provisioning.federation import Federation
from server.services.control import superlink_answers, sync_nodes


@dataclass(frozen=True)
class Outcome:
    """The roster as it is now (None: nobody was admitted yet), what changed, and whether the SuperLink knows."""

    roster: Roster | None
    changes: tuple[Row, ...]
    registered: bool

    def lines(self) -> list[str]:
        """Say it in words, with the fingerprints to compare."""
        lines = [line for row in self.changes for line in row_lines(row)]
        version = f"Roster version {self.roster.version}" if self.roster else "No roster yet"
        lines.append(f"{version}{'' if self.changes else ': nothing changed'}.")
        if any(row.change != "removed" for row in self.changes):
            lines.append("Compare these fingerprints with the sites by telephone; revoke a site whose are others.")
        if self.changes:
            lines.append("Every site has to accept this version before the next run.")
        known = (
            "The SuperLink knows." if self.registered else "The SuperLink is told when it runs (`python -m server up`)."
        )
        return [*lines, known]


def admit(federation: Federation, paths: Sequence[Path], *, replace: bool = False) -> Outcome:
    """Add sites to the roster by their requests, all in one new version; the same request again changes nothing.

    Parameters
    ----------
    federation
        The federation, opened.
    paths
        Requests.
    replace
        Let a site change its keys where its old key did not sign the request.

    Raises
    ------
    FedReasonError
        REQUEST_BAD where one of them cannot be admitted; then none is.
    """
    with federation.locked():
        old = federation.roster()
        members = {member.site: member for member in old.members} if old else {}
        retired = _retired(federation, old)
        seen: dict[str, Path] = {}
        for path in paths:
            request = read_request(path)
            known = members.get(request.site)
            if known is not None and _same(request, known):
                continue
            if request.site in seen:
                raise bad_request(path, f"is of {request.site}, as is {seen[request.site]}, with other keys")
            seen[request.site] = path
            _require_admissible(federation, path, request, known, replace=replace)
            _require_fresh_keys(path, request, [m for m in members.values() if m.site != request.site], retired)
            members[request.site] = Member(
                site=request.site,
                signing_key=request.signing_key,
                node_key=request.node_key,
                admitted=datetime.now(UTC).date(),
            )
        return _publish(federation, old, members.values())


def revoke(federation: Federation, sites: Sequence[str]) -> Outcome:
    """Take sites off the roster and off the SuperLink; a site that is off already changes nothing.

    Raises
    ------
    FedReasonError
        REQUEST_BAD for a name that is no site of this federation; then nobody is revoked.
    """
    with federation.locked():
        old = federation.roster()
        members = {member.site: member for member in old.members} if old else {}
        if unknown := sorted(set(sites) - set(members) - set(federation.config.sites)):
            raise FedReasonError(
                Code.REQUEST_BAD,
                f"{', '.join(unknown)} is no site of the federation {federation.name}.",
                f"Its sites are {', '.join(federation.config.sites)}.",
            )
        left = [member for member in members.values() if member.site not in sites]
        try:
            write_admitted_keys(federation, left)  # before the roster, for it works on a full disk too
            return _publish(federation, old, left)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise FedReasonError(
                Code.DISK_FULL,
                f"There is no space for the roster without {', '.join(sites)}.",
                "nginx turns them away until the next `admit` or `up`. Free some space, then repeat this command.",
            ) from None


def restore_rosters(federation: Federation, paths: Sequence[Path]) -> Outcome:
    """Take back rosters that this coordinator signed and the sites have kept, after an older backup was restored.

    The newest of them is the roster from now on, and the next change its successor; the others are history again.

    Raises
    ------
    FedReasonError
        ROSTER_SIGNATURE or ROSTER_MISSING where one is not of this coordinator, ROSTER_CHANGED where one is of another
        federation, or none is as new as the roster that is there; then nothing is changed.
    """
    with federation.locked():
        old = federation.roster()
        found = {path: read_roster(path, federation.signer) for path in paths}
        for path, roster in found.items():
            if roster.federation != federation.name:
                raise FedReasonError(
                    Code.ROSTER_CHANGED,
                    f"{path} is of the federation {roster.federation}, this one is {federation.name}.",
                    "Name rosters of this federation.",
                )
        path, new = max(found.items(), key=lambda one: one[1].version)
        if old is not None and new.version < old.version:
            raise FedReasonError(
                Code.ROSTER_CHANGED,
                f"{path} is version {new.version}, and {federation.roster_file} is version {old.version} already.",
                "Nothing was changed: the newest counts.",
            )
        private_folder(federation.rosters)
        for source, roster in found.items():
            write_private(federation.rosters / f"{roster.version}.json", source.read_bytes())
        write_private(federation.roster_file, path.read_bytes())
        return _follow(federation, old, new)


def roster_lines(federation: Federation) -> list[str]:
    """Say who is on the roster, with the fingerprints, and who is not on it yet."""
    roster = federation.roster()
    absent = [site for site in federation.config.sites if roster is None or roster.member(site) is None]
    lines = [f"Not on the roster: {', '.join(absent)}"] if absent else []
    lines.append(f"Signed by the coordinator's key {fingerprint(federation.signer)}")
    if roster is None:
        return ["No site has been admitted yet.", *lines]
    head = f"Roster of {roster.federation}, version {roster.version}, {roster.issued:%Y-%m-%d %H:%M} UTC"
    return [head, *(line for row in compare(roster, roster) for line in row_lines(row)), *lines]


def row_lines(row: Row) -> list[str]:
    """Say one line of a comparison, and the fingerprints below it."""
    change = "" if row.change == "same" else f" ({row.change})"
    signing, node = row.fingerprints
    return [f"{row.site}{change}, admitted {row.admitted}", f"    signing  {signing}", f"    node     {node}"]


def _same(request: Request, member: Member) -> bool:
    return (request.signing_key, request.node_key) == (member.signing_key, member.node_key)


def _require_admissible(
    federation: Federation, path: Path, request: Request, known: Member | None, *, replace: bool
) -> None:
    """Refuse a request of another federation or of a stranger, and one that changes keys without the old key's word."""
    if request.federation != federation.name:
        raise bad_request(path, f"is for the federation {request.federation}, this one is {federation.name}")
    if request.site not in federation.config.sites:
        raise bad_request(
            path,
            f"is of {request.site}, which is no site of {federation.name}",
            f"Its sites are {', '.join(federation.config.sites)}; `python -m server kit {request.site}` adds one.",
        )
    if known is not None and not replace and not request.is_handed_over_by(known.signing_key):
        raise bad_request(
            path,
            f"asks to replace the keys of {request.site}, and its old key did not sign that",
            "Have the site make new keys by `python -m client rotate`; where the old ones are lost, compare the "
            "fingerprints by telephone and say --replace.",
        )


def _require_fresh_keys(path: Path, request: Request, others: Iterable[Member], retired: dict[str, int]) -> None:
    """Refuse keys of another site, and keys that were taken off the roster: whoever stole them still has them."""
    asked = {request.signing_key, request.node_key}
    for other in others:
        if asked & {other.signing_key, other.node_key}:
            raise bad_request(path, f"asks for a key that is {other.site}'s", "Every site makes its own keys.")
    for key in asked & set(retired):
        raise bad_request(
            path,
            f"asks for a key that was last on version {retired[key]} of the roster",
            "A key that was taken off does not come back: have the site make new ones by `python -m client rotate`.",
        )


def _retired(federation: Federation, current: Roster | None) -> dict[str, int]:
    """Return the keys of earlier versions that the current one lacks, with the last version they were on."""
    if current is None:
        return {}
    last: dict[str, int] = {}
    versions = [federation.rosters / f"{version}.json" for version in range(1, current.version)]
    for version, path in enumerate(versions, start=1):
        if not path.exists():  # made after the backup that this folder is of, and no site gave it back
            continue
        for member in read_roster(path, federation.signer).members:
            last |= dict.fromkeys((member.signing_key, member.node_key), version)
    in_use = {key for member in current.members for key in (member.signing_key, member.node_key)}
    return {key: version for key, version in last.items() if key not in in_use}


def _publish(federation: Federation, old: Roster | None, members: Iterable[Member]) -> Outcome:
    """Sign the next version where the members changed, bring the files in line with it, and tell the SuperLink."""
    listed = tuple(sorted(members, key=lambda member: member.site))
    new = old
    if listed != (old.members if old else ()):
        new = Roster(
            federation=federation.name,
            version=old.version + 1 if old else 1,
            issued=datetime.now(UTC).replace(microsecond=0),
            members=listed,
        )
        text = sign_roster(new, load_signing_key(federation.signing_key)).encode()
        private_folder(federation.rosters)
        write_private(federation.rosters / f"{new.version}.json", text)
        write_private(federation.roster_file, text)
    return _follow(federation, old, new)


def _follow(federation: Federation, old: Roster | None, new: Roster | None) -> Outcome:
    """Bring the files in line with the roster, and tell the SuperLink."""
    members = new.members if new else ()
    _write_node_keys(federation, members)
    write_admitted_keys(federation, members)
    changes = tuple(row for row in compare(old, new) if row.change != "same") if new else ()
    return Outcome(new, changes, _register(federation))


def _write_node_keys(federation: Federation, members: Sequence[Member]) -> None:
    """Make nodes/ hold the key of each member, and no other."""
    private_folder(federation.nodes)
    for member in members:
        write_private(federation.node_key(member.site), f"{member.node_key} {member.site}\n".encode())
    for path in federation.nodes.glob("*.pub"):
        if path not in {federation.node_key(member.site) for member in members}:
            path.unlink()


def _register(federation: Federation) -> bool:
    """Tell the SuperLink, if it runs."""
    if not superlink_answers(federation):
        return False
    sync_nodes(federation)
    return True
